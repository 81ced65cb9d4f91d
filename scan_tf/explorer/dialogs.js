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
    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();
      // Chromium closes at the second Escape whatever its cancel event was answered.
      if (event.key === "Escape" && dialog.dataset.working) event.preventDefault();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(answer);
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog && !dialog.dataset.working) dialog.close(); });
    dialog.addEventListener("cancel", (event) => { if (dialog.dataset.working) event.preventDefault(); });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("[autofocus]") ?? dialog.querySelector("input, button"))?.focus({ preventScroll: true });
    dialog.scrollTop = 0;
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

// Run `work` when it is said yes; the dialog stays until that has ended.
function working(done, button, text, work) {
  return async () => {
    for (const other of button.parentNode.children) other.disabled = true;
    button.closest("dialog").dataset.working = "true";
    const note = make("p", { className: "busy", textContent: text });
    note.setAttribute("role", "status");
    button.parentNode.before(note);
    const answer = await work();
    done(answer ? "done" : null);
  };
}

export function confirm(title, text, yes, work) {
  return shown(title, (done) => {
    const button = make("button", { className: "strong", textContent: yes });
    const buttons = make("div", { className: "buttons" }, make("button", { textContent: "Cancel", onclick: () => done(null) }), button);
    button.onclick = working(done, button, "Writing report, tables and classifier; up to a minute…", work);
    return [make("p", { textContent: text }), buttons];
  });
}

// What a classifier that heeds the corrections would change; "done", "show" or null.
export function proposal(found, { nameOf, thumb, colour, exported, accept }) {
  const FEW = 120, number = (n) => n.toLocaleString("en");
  const names = found.changed === null;
  return shown(names ? "Bring in the names" : "What the corrections change", (done) => {
    const parts = [];
    if (names) parts.push(make("p", { textContent: "Only names were given. They go into the report, the tables" + (exported ? " and the exported classifier." : ".") }));
    else {
      const { said, none, unsure } = found.facts;
      const told = [`${number(said)} put into a cluster`];
      if (none) told.push(`${number(none)} none of these`);
      if (unsure) told.push(`${number(unsure)} not sure, which are left out`);
      parts.push(make("p", { textContent: `Taught by ${told.join(", ")}. It would move ${number(found.changed)} other image${found.changed === 1 ? "" : "s"}.` }));
      if (found.below !== null) parts.push(make("p", { textContent: `Below a confidence of ${found.below} an image will be none of these.` }));
      const body = make("tbody");
      for (const row of found.counts) {
        const head = make("th", { dir: "auto", textContent: nameOf(row.id), scope: "row" });
        body.append(make("tr", {}, head, ...[row.before, row.after, row.came ? "+" + number(row.came) : "", row.went ? "−" + number(row.went) : ""]
          .map((cell) => make("td", { textContent: typeof cell === "number" ? number(cell) : cell }))));
      }
      const header = make("tr", {}, ...["Cluster", "before", "after", "come", "go"].map((text) => make("th", { textContent: text, scope: "col" })));
      const box = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, header), body));
      box.setAttribute("role", "region");
      box.ariaLabel = "Images by cluster, before and after";
      parts.push(box);
      if (found.rows.length) {
        const list = make("ul", { className: "thumbs", tabIndex: 0 }, ...found.rows.slice(0, FEW).map((row) => {
          const image = make("img", { src: thumb(row.row), alt: `image ${row.row}`, loading: "lazy" });
          image.style.borderBottom = `4px solid ${colour(row.to)}`;
          return make("li", {}, image, make("span", { dir: "auto", textContent: `${nameOf(row.from)} → ${nameOf(row.to)}` }));
        }));
        list.ariaLabel = "Images that would move, the surest first";
        parts.push(list);
      }
    }
    const yes = make("button", { className: "strong", textContent: "Accept", id: "accept" });
    const buttons = make("div", { className: "buttons" }, make("button", { textContent: "Cancel", autofocus: true, onclick: () => done(null) }));
    if (found.rows.length) buttons.append(make("button", { textContent: "Show them in the list", onclick: () => done("show") }));
    buttons.append(yes);
    yes.onclick = working(done, yes, "Writing report, tables and classifier; up to a minute…", accept);
    return [...parts, buttons];
  }, { wide: !names });
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
