// What the report's page does; plane.js stands before it in the same script.

const data = JSON.parse(document.getElementById("data").textContent);
const arrays = {};
for (const [name, { kind, data: text }] of Object.entries(data.arrays)) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  arrays[name] = new { u4: Uint32Array, u2: Uint16Array, f4: Float32Array }[kind](bytes.buffer);
}
const { side, columns, perSheet, count } = data;
const at = (selector) => document.querySelector(selector);
const reduced = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Sheets: decoded when first looked at.
const holders = document.querySelectorAll("script.sheet");
const sheets = [];
function sheet(number) {
  return (sheets[number] ??= (() => {
    const image = new Image();
    image.src = "data:image/webp;base64," + holders[number].textContent;
    return image;
  })());
}
function spot(place) {
  const inside = place % perSheet;
  return { image: sheet(Math.floor(place / perSheet)),
           x: (inside % columns) * side, y: Math.floor(inside / columns) * side };
}
function picture(place, size) {
  const { image, x, y } = spot(place);
  const canvas = make("canvas", { className: "picture", width: side, height: side });
  canvas.style.width = canvas.style.height = size + "px";
  if (side <= 32 && size > side) canvas.style.imageRendering = side <= 16 ? "pixelated" : "auto";
  image.decode().then(() => canvas.getContext("2d").drawImage(image, x, y, side, side, 0, 0, side, side));
  return canvas;
}

const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
const nameOf = (place) => data.names ? data.names[place] : "image " + arrays.row[place];
const fileOf = (place) => nameOf(place).split("/").pop().replace(/(.)\.[^.]*$/, "$1");
function facts(place) {
  const lines = [`${data.clusters[arrays.cluster[place]]}, confidence ${percent(arrays.confidence[place])}`];
  if (arrays.second) {
    const lead = (100 * arrays.lead[place]).toFixed(1);
    lines.push(`next: ${data.clusters[arrays.second[place]]}, ${lead} points behind`);
  }
  if (arrays.label) lines.push(`true class: ${data.classes[arrays.label[place]]}`);
  return lines;
}
function card(place, size) {
  const words = make("div", {}, make("b", { dir: "auto", textContent: nameOf(place) }));
  for (const line of facts(place)) words.append(make("span", { textContent: line }));
  return [picture(place, size), words];
}

// The card beside the pointer.
const hover = at("#hover");
function showCard(place, x, y) {
  if (hover.dataset.place !== String(place)) {
    hover.replaceChildren(...card(place, Math.max(72, Math.min(128, side * 2))));
    hover.dataset.place = place;
  }
  hover.hidden = false;
  const box = hover.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
  const top = Math.min(y + 16, innerHeight - box.height - 8);
  hover.style.left = Math.max(8, Math.min(left, innerWidth - box.width - 8)) + "px";
  hover.style.top = Math.max(8, top) + "px";
}
function hideCard() { hover.hidden = true; hover.dataset.place = ""; }

// One image, larger.
const one = at("#one");
function open(place, pixels) {
  hideCard();
  at("#one-name").textContent = nameOf(place);
  const words = make("div");
  for (const line of facts(place)) words.append(make("span", { textContent: line }));
  let large = pixels;
  if (large) {
    large = make("img", { src: pixels.src, alt: "", className: "picture" });
    large.style.width = large.style.height = "192px";
    if (large.naturalWidth <= 32) large.style.imageRendering = "pixelated";
  } else large = picture(place, 192);
  one.querySelector(".card").replaceChildren(large, words);
  const cluster = arrays.cluster[place];
  const buttons = [make("button", { textContent: "All of " + data.clusters[cluster],
    onclick: () => { one.close(); openAll(cluster); } })];
  if (arrays.coordinates) buttons.push(make("button", { textContent: "Show on the map",
    onclick: () => { one.close(); map.focus(place); } }));
  one.querySelector(".actions").replaceChildren(...buttons);
  if (!one.open) one.showModal();
}

// Every image of a cluster, more of them as one scrolls.
const many = at("#many"), list = many.querySelector(".all-images");
function range(cluster) {
  let low = arrays.cluster.indexOf(cluster), high = arrays.cluster.lastIndexOf(cluster) + 1;
  return low < 0 ? [0, 0] : [low, high];
}
function openAll(cluster) {
  const [low, high] = range(cluster);
  const size = Math.max(56, side);
  let next = low;
  at("#many-name").textContent = `${data.clusters[cluster]}: ${(high - low).toLocaleString("en")} images, the most confident first`;
  list.style.setProperty("--cell", size + "px");
  list.setAttribute("aria-label", data.clusters[cluster]);
  const sentinel = make("i");
  list.replaceChildren(sentinel);
  const more = () => {
    const end = Math.min(next + 180, high);
    const fresh = document.createDocumentFragment();
    for (; next < end; next++) {
      const button = make("button", {}, picture(next, size));
      if (data.names) button.append(make("small", { dir: "auto", textContent: fileOf(next) }));
      button.dataset.i = next;
      button.setAttribute("aria-label", nameOf(next));
      button.tabIndex = next === low ? 0 : -1;
      fresh.append(button);
    }
    sentinel.before(fresh);
    if (next >= high) { watcher.disconnect(); sentinel.remove(); }
  };
  openAll.watcher?.disconnect();
  const watcher = openAll.watcher = new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting)) { more(); watcher.unobserve(sentinel); if (next < high) watcher.observe(sentinel); }
  }, { root: list, rootMargin: "400px" });
  if (!many.open) many.showModal();
  list.scrollTop = 0;
  more();
  if (next < high) watcher.observe(sentinel);
}

// A group of pictures is one stop of the Tab key; arrows move in it.
for (const group of document.querySelectorAll(".strip, .twins ul")) {
  group.querySelectorAll("button").forEach((button, i) => { button.tabIndex = i ? -1 : 0; });
}
document.addEventListener("keydown", (event) => {
  const button = event.target.closest?.("button[data-i]");
  const group = button?.closest(".strip, .twins ul, .all-images");
  if (!group) return;
  const buttons = [...group.querySelectorAll("button")], here = buttons.indexOf(button);
  const wide = buttons.filter((b) => b.offsetTop === buttons[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[event.key];
  const goal = event.key === "Home" ? buttons[0] : event.key === "End" ? buttons.at(-1) : buttons[here + step];
  if (!goal || (step === undefined && !["Home", "End"].includes(event.key))) return;
  event.preventDefault();
  button.tabIndex = -1; goal.tabIndex = 0; goal.focus();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.i) open(Number(button.dataset.i), button.querySelector("img"));
  if (button?.dataset.cluster) openAll(Number(button.dataset.cluster));
  if (event.target.tagName === "DIALOG") event.target.close();
});
document.addEventListener("pointerover", (event) => {
  const button = event.target.closest?.(".strip button, .twins button");
  if (button && event.pointerType === "mouse") showCard(Number(button.dataset.i), event.clientX, event.clientY);
});
document.addEventListener("pointerout", (event) => {
  if (event.target.closest?.(".strip button, .twins button")) hideCard();
});

// Tables that sort by what is clicked.
for (const table of document.querySelectorAll(".sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = make("button", { textContent: head.textContent });
    head.replaceChildren(button);
    button.onclick = () => {
      const falls = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const value = (row) => {
        const words = row.cells[column].textContent;
        const number = parseFloat(words.replaceAll(",", ""));
        return column === 0 || Number.isNaN(number) ? words : number;
      };
      const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b :
        String(a).localeCompare(String(b), "en", { numeric: true });
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (falls ? -1 : 1) * compare(value(a), value(b)));
      table.tBodies[0].append(...rows);
    };
  });
}

// The sections, and which of them is in sight.
const links = new Map();
const menu = make("ul");
for (const part of document.querySelectorAll("main > section")) {
  const link = make("a", { href: "#" + part.id, textContent: part.querySelector("h2").textContent });
  links.set(part, link);
  menu.append(make("li", {}, link));
}
at("nav").append(menu);
const inSight = new Set();
const sections = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.isIntersecting ? inSight.add(entry.target) : inSight.delete(entry.target);
  let first = true;
  for (const [part, link] of links) {
    if (inSight.has(part) && first) {
      link.setAttribute("aria-current", "true");
      first = false;
      menu.scrollLeft = link.offsetLeft - menu.clientWidth / 3;
    }
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-60px 0px -55% 0px" });
for (const part of links.keys()) sections.observe(part);

// The map.
const map = arrays.coordinates && (() => {
  const canvas = at(".map canvas"), context = canvas.getContext("2d");
  const says = at("#map-says"), colourBy = at("#map-colour"), only = at("#map-cluster");
  data.clusters.forEach((name, c) => only.append(make("option", { value: c, textContent: name })));
  const points = arrays.coordinates;
  let current = -1;
  const view = plane(canvas, points, { paint, moved: hideCard, shown });
  const { draw, x: screenX, y: screenY } = view;
  function shown(i) {
    return only.value === "" || arrays.cluster[i] === Number(only.value);
  }

  function shade(hex) {
    if (!dark.matches) return hex;
    const mix = (at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * 0.7 + 255 * 0.3);
    return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
  }
  function colourOf(i) {
    if (colourBy.value === "confidence") {
      const step = Math.round(arrays.confidence[i] * 20) / 20;
      return dark.matches ? `hsl(${20 + 190 * step} 75% 62%)` : `hsl(${20 + 190 * step} 80% 42%)`;
    }
    if (colourBy.value === "label") return shade(data.classColours[arrays.label[i]]);
    return shade(data.colours[arrays.cluster[i]]);
  }
  function paint(width, height) {
    context.clearRect(0, 0, width, height);
    const size = Math.max(1.5, Math.min(7, 0.25 * Math.sqrt(width * height / count * view.zoomed)));
    const groups = new Map(), visible = [];
    for (let i = 0; i < count; i++) {
      const x = screenX(i), y = screenY(i);
      if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
      const colour = shown(i) ? colourOf(i) : "";
      if (colour) visible.push(i);
      groups.get(colour)?.push(i) ?? groups.set(colour, [i]);
    }
    const faint = groups.get("");
    groups.delete("");
    for (const [colour, members] of [["#888", faint ?? []], ...groups]) {
      context.fillStyle = colour;
      context.globalAlpha = members === faint ? 0.15 : 0.85;
      if (size < 3) {
        for (const i of members) context.fillRect(screenX(i) - size / 2, screenY(i) - size / 2, size, size);
        continue;
      }
      context.beginPath();
      for (const i of members) {
        context.moveTo(screenX(i), screenY(i));
        context.arc(screenX(i), screenY(i), size / 2, 0, 7);
      }
      context.fill();
    }
    context.globalAlpha = 1;
    // Close enough, the images themselves.
    if (visible.length <= 40 || (visible.length <= 250 && view.zoomed > 1.5)) {
      const tile = visible.length <= 60 ? 48 : 32;
      for (const i of visible) tileAt(i, tile, 2);
    }
    if (current >= 0) tileAt(current, 56, 4);
  }
  function tileAt(i, size, border) {
    const { image, x, y } = spot(i);
    if (!image.complete) { image.decode().then(draw); return; }
    const left = screenX(i) - size / 2, top = screenY(i) - size / 2;
    context.fillStyle = colourOf(i);
    context.fillRect(left - border, top - border, size + 2 * border, size + 2 * border);
    context.imageSmoothingEnabled = side > 16;
    context.drawImage(image, x, y, side, side, left, top, size, size);
  }
  function select(place) {
    current = place;
    says.textContent = place < 0 ? "\u00a0" : [nameOf(place), ...facts(place)].join("; ");
    draw();
  }
  view.listen({
    hover(x, y, event) {
      const found = view.nearest(x, y);
      found < 0 ? hideCard() : showCard(found, event.clientX, event.clientY);
    },
    tap(x, y, event) {
      const touched = event.pointerType === "touch", found = view.nearest(x, y, touched ? 28 : 14);
      if (found < 0) { hideCard(); select(-1); return; }
      select(found);
      if (touched) showCard(found, event.clientX, event.clientY); else open(found);
    },
    // Without Ctrl the page scrolls on, until the map was clicked.
    wheels: (event) => document.activeElement === canvas || event.ctrlKey,
  });
  canvas.addEventListener("keydown", (event) => {
    if (view.key(event, current, select)) return;
    if (event.key === "Enter" && current >= 0) open(current);
    else if (event.key === "Escape") select(-1);
    else return;
    event.preventDefault();
  });
  const zoom = (factor) => current < 0 ? view.zoom(factor) : view.zoom(factor, screenX(current), screenY(current));
  at("#map-in").onclick = () => zoom(1.5);
  at("#map-out").onclick = () => zoom(1 / 1.5);
  at("#map-reset").onclick = () => { view.whole(); select(-1); };
  colourBy.onchange = only.onchange = () => {
    at("#map-scale").hidden = colourBy.value !== "confidence";
    hideCard();
    draw();
  };
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", view.now);
  return {
    focus(place) {
      only.value = "";
      view.centre(place, 4);
      select(place);
      canvas.scrollIntoView({ block: "center", behavior: reduced.matches ? "auto" : "smooth" });
      canvas.focus({ preventScroll: true });
    },
  };
})();
addEventListener("scroll", hideCard, { passive: true });
addEventListener("pointerdown", hideCard);
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
document.documentElement.dataset.ready = "true";
