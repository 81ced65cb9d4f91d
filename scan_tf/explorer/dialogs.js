// Elements, and dialogs that ask for something: each is a promise of the answer, null for none.

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Show a dialog until it is closed; `fill(done)` gives its children and calls done(answer).
export function shown(title, fill, { wide = false } = {}) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const dialog = make("dialog", { className: wide ? "wide" : "" });
    const heading = make("h2", { id: "dialog-title", textContent: title });
    dialog.setAttribute("aria-labelledby", heading.id);
    let answer = null;
    const done = (found) => { answer = found; dialog.close(); };
    dialog.append(heading, ...fill(done, dialog));
    dialog.addEventListener("keydown", (event) => event.stopPropagation());
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(answer);
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("[autofocus]") ?? dialog.querySelector("input, button"))?.focus();
  });
}

export function ask(title, label, value, { note = "" } = {}) {
  return shown(title, (done) => {
    const input = make("input", { value, maxLength: 100, autocomplete: "off" });
    const form = make("form", { method: "dialog" });
    form.addEventListener("submit", (event) => { event.preventDefault(); done(input.value); });
    form.append(
      ...(note ? [make("p", { textContent: note })] : []),
      make("label", {}, label, input),
      make("div", { className: "buttons" },
        make("button", { type: "button", textContent: "Cancel", onclick: () => done(null) }),
        make("button", { className: "strong", textContent: "Save" })),
    );
    queueMicrotask(() => input.select());
    return [form];
  });
}

// One of the groups; what is typed narrows the list, Enter takes the first.
export function choose(title, groups, { colour }) {
  return shown(title, (done) => {
    const input = make("input", { autocomplete: "off", type: "search" });
    const list = make("ul", { className: "choices" });
    function fill() {
      const typed = input.value.trim().toLowerCase();
      const fitting = groups.filter((g) => g.label.toLowerCase().includes(typed) || String(g.id) === typed);
      fitting.sort((a, b) => (String(b.id) === typed) - (String(a.id) === typed));
      list.replaceChildren(...fitting.map((group, place) => {
        const dot = make("span", { className: "dot" });
        dot.style.background = colour(group.id);
        const name = make("span", { dir: "auto", textContent: group.label });
        const size = make("small", { textContent: group.size.toLocaleString("en") });
        return make("li", {}, make("button", { type: "button", className: place ? "" : "first", onclick: () => done(group.id) }, dot, name, size));
      }));
    }
    input.addEventListener("input", fill);
    input.addEventListener("keydown", (event) => {
      const first = list.querySelector("button");
      if (event.key === "Enter" && first) { event.preventDefault(); first.click(); }
      if (event.key === "ArrowDown" && first) { event.preventDefault(); first.focus(); }
    });
    list.addEventListener("keydown", (event) => {
      const item = document.activeElement.closest("li");
      const next = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling }[event.key];
      if (next) { event.preventDefault(); next.querySelector("button").focus(); }
      else if (event.key === "ArrowUp") input.focus();
    });
    fill();
    return [
      make("label", {}, "Name or number of the cluster", input),
      list,
      make("div", { className: "buttons" }, make("button", { textContent: "Cancel", onclick: () => done(null) })),
    ];
  });
}

export function look(facts, { image, pixels, earlier, later }) {
  return shown(facts.title, (done, dialog) => {
    const list = make("dl");
    for (const [term, text] of facts.lines) {
      list.append(make("dt", { textContent: term }), make("dd", { dir: "auto", textContent: text }));
    }
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" && earlier) done(-1);
      if (event.key === "ArrowRight" && later) done(1);
    });
    return [
      make("div", { className: pixels ? "look pixels" : "look" }, make("img", { src: image, alt: facts.title }), list),
      make("div", { className: "buttons" },
        make("button", { textContent: "Previous", disabled: !earlier, onclick: () => done(-1) }),
        make("button", { textContent: "Next", disabled: !later, onclick: () => done(1) }),
        make("button", { textContent: "Close", className: "strong", autofocus: true, onclick: () => done(null) })),
    ];
  }, { wide: true });
}

export function help(keys) {
  return shown("Keys", (done) => {
    const list = make("dl", { className: "keys" });
    for (const [key, text] of keys) {
      const shownKeys = make("dt");
      for (const [place, part] of key.split(" ").entries()) shownKeys.append(...(place ? [" "] : []), make("kbd", { textContent: part }));
      list.append(shownKeys, make("dd", { textContent: text }));
    }
    return [
      make("p", { textContent: "They act on the selected images, or else on the one with the dashed frame. Everything is saved at once." }),
      list,
      make("div", { className: "buttons" }, make("button", { textContent: "Close", className: "strong", autofocus: true, onclick: () => done(null) })),
    ];
  }, { wide: true });
}
