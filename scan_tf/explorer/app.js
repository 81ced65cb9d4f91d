// The page: what is shown, which list is looked at, and what keys and buttons do.

import { bytes, json, post, Refused } from "./server.js";
import { ask, choose, confirm, help, look, make, proposal } from "./dialogs.js";
import { grid as newGrid } from "./grid.js";
import { map as newMap } from "./map.js";

const $ = (id) => document.getElementById(id);
const LABELLED = 1, UNSURE = 2, NONE = 3;
const NEAR = 300;
// The token has done its work; it is not to stay in the address and its history.
history.replaceState(null, "", "/");

let state, images, points, grid, map, listed, busy = false;
// What is looked at: a group's number, or one of "all", "said", "unsure", "none", "found".
let view = "all", order = "sure";
let found = { title: "", rows: [] };

const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`;
const groupOf = (id) => state.groups.find((group) => group.id === id);
const nameOf = (id) => groupOf(id)?.name || `cluster ${id}`;
const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = new Map();
function lighter(hex) {
  const mix = (at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * 0.7 + 255 * 0.3);
  return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
}
// A cluster of the run has the colour that its report gives it; groups made here have others.
function colour(id) {
  if (!colours.has(id)) {
    const hue = `hsl(${(id * 137.508 + 205) % 360} ${id % 2 ? 58 : 72}% ${dark.matches ? 62 : 42}%)`;
    const own = state.colours[id];
    colours.set(id, own ? (dark.matches ? lighter(own) : own) : hue);
  }
  return colours.get(id);
}
dark.addEventListener("change", () => {
  colours.clear();
  showGroups();
  map?.draw();
});

let quiet = 0;
function say(text, { bad = false } = {}) {
  const says = $("says");
  says.textContent = text;
  says.classList.toggle("bad", bad);
  says.classList.toggle("shown", text !== "");
  clearTimeout(quiet);
  quiet = setTimeout(() => says.classList.remove("shown"), bad ? 8000 : 3000);
}
function stop(text) {
  if (document.querySelector(".stop")) return;
  const box = make("div", { className: "stop" }, make("p", { textContent: text }));
  box.setAttribute("role", "alert");
  document.body.append(box);
}
function failed(error) {
  if (!(error instanceof Refused)) { say(String(error), { bad: true }); throw error; }
  if (error.status === 0 || error.status === 403) stop(error.message);
  else say(error.message, { bad: true });
}

// From the server.

async function fetched() {
  [state, images] = await Promise.all([json("/api/state"), bytes("/api/images").then(unpacked)]);
}
function unpacked(buffer) {
  const n = buffer.byteLength / 21;
  return {
    group: new Int32Array(buffer, 0, n), second: new Int32Array(buffer, 4 * n, n),
    confidence: new Float32Array(buffer, 8 * n, n), lead: new Float32Array(buffer, 12 * n, n),
    far: new Float32Array(buffer, 16 * n, n), mark: new Uint8Array(buffer, 20 * n, n),
  };
}
async function reload({ keep = true } = {}) {
  await fetched();
  if (typeof view === "number" && !groupOf(view)) view = state.groups[0].id;
  showAll({ keep });
}
async function act(action, done) {
  if (busy) return false;
  busy = true;
  try {
    const before = state;
    await post("/api/act", { seq: state.seq, action });
    await reload();
    say(done ?? "saved", {});
    return before;
  } catch (error) {
    if (error.status === 409) {
      await reload();
      say("Something was changed in another window. What it is now is shown here; do it again if it is still right.", { bad: true });
    } else failed(error);
    return false;
  } finally {
    busy = false;
  }
}

// Lists.

function members() {
  const { group, second, mark } = images, n = group.length, rows = [];
  if (view === "found") return Uint32Array.from(found.rows);
  for (let i = 0; i < n; i++) {
    const here = view === "all" || (view === "said" && mark[i] === LABELLED) || (view === "unsure" && mark[i] === UNSURE)
      || (view === "none" && mark[i] === NONE)
      || (group[i] === view && mark[i] !== NONE) || (order === "border" && second[i] === view && mark[i] === 0);
    if (here) rows.push(i);
  }
  return Uint32Array.from(rows);
}
function sorted(rows) {
  const by = { sure: images.confidence, unsure: images.confidence, border: images.lead, far: images.far }[order];
  if (!by || (view === "found" && order === "found")) return rows;
  const sign = order === "sure" || order === "far" ? -1 : 1;
  return rows.sort((a, b) => sign * (by[a] - by[b]) || a - b);
}
function title() {
  if (view === "found") return found.title;
  return { all: "All images", said: "Corrected by hand", unsure: "Not sure", none: "None of these" }[view] ?? nameOf(view);
}
function showList({ keep = false } = {}) {
  const rows = sorted(members());
  listed = new Uint8Array(images.group.length);
  for (const row of rows) listed[row] = 1;
  $("list-name").textContent = title();
  $("cluster-tools").hidden = typeof view !== "number";
  $("found-order").hidden = view !== "found";
  $("order").value = order;
  $("grid").hidden = !rows.length;
  $("empty").hidden = rows.length > 0;
  grid.show(rows, { keep });
}
function showGroups() {
  const marks = [0, 0, 0, 0];
  for (const mark of images.mark) marks[mark]++;
  const entry = (id, label, size, { dot = "", sure = null, unnamed = false } = {}) => {
    const button = make("button", { type: "button", onclick: () => go(id) });
    button.dataset.id = id;
    button.setAttribute("aria-current", id === view);
    const spot = make("span", { className: "dot" });
    if (dot) spot.style.background = dot;
    button.append(spot, make("span", { className: unnamed ? "label unnamed" : "label", dir: "auto", textContent: label, title: label }),
      make("span", { className: "count", textContent: size.toLocaleString("en") }));
    if (sure !== null) {
      const bar = make("i");
      bar.style.width = 100 * sure + "%";
      button.append(make("span", { className: "bar", title: `mean confidence ${percent(sure)}` }, bar));
    }
    return make("li", {}, button);
  };
  const items = [entry("all", "All images", state.images)];
  if (marks[LABELLED]) items.push(entry("said", "Corrected by hand", marks[LABELLED]));
  if (marks[UNSURE]) items.push(entry("unsure", "Not sure", marks[UNSURE]));
  if (marks[NONE]) items.push(entry("none", "None of these", marks[NONE]));
  if (found.title) items.push(entry("found", found.title, found.rows.length));
  const lists = items.length;
  for (const group of state.groups) {
    items.push(entry(group.id, group.name || `cluster ${group.id}`, group.size, { dot: colour(group.id), sure: group.sure, unnamed: !group.name }));
  }
  items[lists].className = "rule";
  const focused = [...$("groups").querySelectorAll("button")].indexOf(document.activeElement);
  $("groups").replaceChildren(...items);
  if (focused >= 0) $("groups").querySelectorAll("button")[focused]?.focus();
  $("groups").querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
function showAll({ keep = false } = {}) {
  document.title = `${state.run}: explorer`;
  $("run").textContent = state.run;
  const named = state.groups.filter((group) => group.name).length;
  $("totals").textContent = `${count(state.images, "image")}, ${count(state.groups.length, "cluster")}, ${named} named`;
  $("undo").disabled = !state.undo;
  $("redo").disabled = !state.redo;
  $("undo").title = state.undo ? `Undo: ${state.undo}` : "";
  $("redo").title = state.redo ? `Redo: ${state.redo}` : "";
  $("apply").hidden = !state.pending;
  $("apply").textContent = state.pending ? `Apply ${count(state.pending, "change")}…` : "Apply…";
  $("discard").hidden = !state.accepted;
  $("far-order").hidden = !state.hasDistance;
  showGroups();
  showList({ keep });
  map?.changed();
}
function go(id) {
  view = id;
  order = id === "found" ? "found" : order === "found" ? "sure" : order;
  showGroups();
  showList();
}
function showFound(name, rows) {
  found = { title: name, rows };
  go("found");
}

// Tiles.

function decorate(element, row, tile) {
  const mark = images.mark[row];
  const text = { [LABELLED]: "✓", [UNSURE]: "?", [NONE]: "∅" }[mark] ?? (order === "border" ? `${Math.round(100 * images.lead[row])} pt` : percent(images.confidence[row]));
  const dot = typeof view === "number" && images.group[row] === view ? "" : colour(images.group[row]);
  const label = `image ${row}, ${nameOf(images.group[row])}, ${["confidence " + percent(images.confidence[row]), "corrected by hand", "not sure", "none of these"][mark]}`;
  if (tile.text !== text) {
    tile.tag ??= element.appendChild(make("span", { className: "tag" }));
    tile.tag.textContent = tile.text = text;
    tile.tag.ariaHidden = "true";
  }
  if (tile.dot !== dot) {
    if (dot) tile.swatch ??= element.appendChild(make("span", { className: "swatch" }));
    if (tile.swatch) { tile.swatch.hidden = !dot; tile.swatch.style.background = dot; }
    tile.dot = dot;
  }
  if (tile.label !== label) element.ariaLabel = tile.label = label;
}
const thumb = (row) => `/thumb/${row}?of=${state.session}`;
const onMap = () => document.activeElement === $("canvas");
function targets() {
  if (grid.selected.size) return [...grid.selected].sort((a, b) => a - b);
  return grid.cursor < 0 ? [] : [grid.cursor];
}
function chose() {
  const size = grid.selected.size;
  const nothing = !targets().length;
  $("chosen").textContent = size ? `${count(size, "image")} selected` : nothing ? "No image" : `Image ${grid.cursor}`;
  for (const id of ["move", "confirm", "make", "unsure", "none", "clear", "near", "look"]) $(id).disabled = nothing;
  $("drop").disabled = !size;
  map?.draw();
}

// What buttons and keys do.

async function enlarge(row) {
  let place = grid.rows.indexOf(row);
  for (;;) {
    const facts = await json(`/api/image/${row}`).catch(failed);
    if (!facts) return;
    const mark = ["", "put here by hand", "not sure", "none of these"][facts.mark];
    const lines = [["Cluster", nameOf(facts.group)], ["Confidence", percent(facts.confidence)]];
    if (facts.second >= 0) lines.push(["Next", nameOf(facts.second)]);
    if (mark) lines.push(["Marked", mark]);
    if (facts.class) lines.push(["True class", facts.class]);
    lines.push(["File", facts.path]);
    const step = await look({ title: `Image ${row}`, lines },
      { image: `/image/${row}?of=${state.session}`, pixels: document.body.classList.contains("pixels"), earlier: place > 0, later: place >= 0 && place + 1 < grid.rows.length });
    if (!step) return;
    place += step;
    row = grid.rows[place];
    grid.goTo(place);
  }
}
async function pick(heading, except = []) {
  const choices = state.groups.filter((group) => !except.includes(group.id))
    .map((group) => ({ id: group.id, size: group.size, label: group.name || `cluster ${group.id}` }));
  return choose(heading, choices, { colour });
}
function newNames(rows) {
  const group = images.group[rows[0]];
  return { of: group };
}
const commands = {
  async move() {
    const rows = targets();
    if (!rows.length) return;
    const to = await pick(`Move ${count(rows.length, "image")} to`);
    if (to !== null) await act({ do: "move", rows, to }, `${count(rows.length, "image")} to ${nameOf(to)}`);
  },
  async confirm() {
    const rows = targets(), by = new Map();
    for (const row of rows) by.set(images.group[row], [...(by.get(images.group[row]) ?? []), row]);
    for (const [to, some] of by) await act({ do: "move", rows: some, to }, `${count(rows.length, "image")} said to be right`);
  },
  async make() {
    const rows = targets();
    if (!rows.length) return;
    const name = await ask(`New cluster of ${count(rows.length, "image")}`, "Name (may be left empty)", "");
    if (name !== null) await act({ do: "make", rows, name, ...newNames(rows) }, `a new cluster of ${count(rows.length, "image")}`);
  },
  unsure: () => mark("unsure", "marked as not sure"),
  none: () => mark("none", "marked as none of these"),
  clear: () => mark("", "unmarked"),
  async near() {
    const rows = targets();
    if (!rows.length) return;
    try {
      const answer = await post("/api/near", { rows, count: NEAR });
      showFound(rows.length === 1 ? `Like image ${rows[0]}` : `Like ${rows.length} images`, answer.rows);
      say(`${count(answer.rows.length, "image")}, the most similar first`);
    } catch (error) { failed(error); }
  },
  look: () => targets().length && enlarge(onMap() || !grid.selected.size ? targets()[0] : grid.selected.has(grid.cursor) ? grid.cursor : targets()[0]),
  drop() { grid.select([]); },
  async name() {
    if (typeof view !== "number") return;
    const before = groupOf(view).name;
    const name = await ask(`Name of cluster ${view}`, "Name", before, { note: before ? "Empty takes it away." : "" });
    if (name !== null && name.trim() !== before) await act({ do: "name", group: view, name }, name.trim() ? `named ${name.trim()}` : "the name is taken away");
  },
  async merge() {
    if (typeof view !== "number" || state.groups.length < 2) return;
    const from = view, into = await pick(`Merge ${nameOf(view)} into`, [view]);
    if (into === null) return;
    if (await act({ do: "merge", groups: [from], into }, `merged into ${nameOf(into)}`)) go(into);
  },
  async split() {
    if (typeof view !== "number") return;
    const before = await act({ do: "split", group: view }, "split in two");
    if (!before) return;
    const old = new Set(before.groups.map((group) => group.id));
    const made = state.groups.find((group) => !old.has(group.id));
    if (made) say(`split: ${count(made.size, "image")} are now cluster ${made.id}`);
  },
  async undo() { const what = state.undo; if (what) await act({ do: "undo" }, `undone: ${what}`); },
  async redo() { const what = state.redo; if (what) await act({ do: "redo" }, `done again: ${what}`); },
  lasso() {
    if (!map) return; // it is still on its way
    map.setLasso(!map.lassoing);
    $("lasso").setAttribute("aria-pressed", map.lassoing);
    if (map.lassoing) say("Draw around the images. Without the lasso, Shift and drag does the same.");
  },
  view() { document.body.classList.toggle("on-map"); (document.body.classList.contains("on-map") ? $("canvas") : $("grid")).focus(); },
  help: () => help([
    ["← → ↑ ↓", "go from image to image; with Shift select on the way"], ["Space", "select or leave out"],
    ["Ctrl+A", "select all of the list"], ["Esc", "select none"], ["Enter", "enlarge"],
    ["m", "move to another cluster"], ["c", "they are right here"], ["b", "a new cluster of them"], ["u", "not sure"],
    ["x", "none of these"], ["Backspace", "unmark"], ["l", "more like these"],
    ["n", "name the cluster"], ["g", "merge the cluster (on the map: select a growing circle)"], ["s", "split the cluster"],
    ["[ ]", "the cluster before, the next one"], ["o", "another order"], ["z", "undo"], ["y", "redo"], ["a", "apply the corrections"],
    ["v", "from the images to the map and back"], ["f", "lasso"], ["+ - 0", "zoom the map"], ["?", "this"],
  ]),
};
async function waited(path) {
  busy = true;
  document.body.classList.add("waiting");
  try {
    return await post(path, { seq: state.seq });
  } catch (error) {
    if (error.status === 409) { await reload(); say("Something was changed in another window; look, and do it again.", { bad: true }); }
    else failed(error);
    return null;
  } finally {
    busy = false;
    document.body.classList.remove("waiting");
  }
}
commands.apply = async () => {
  if (busy) return;
  say("teaching the classifier…");
  const answer = await waited("/api/apply");
  if (!answer) return;
  say("");
  const choice = await proposal(answer, { nameOf, thumb, colour, exported: state.exported, accept: () => waited("/api/accept") });
  if (choice === "show") showFound("Would change", answer.rows.map((row) => row.row));
  if (choice !== "done") return;
  await reload();
  say(state.exported ? "accepted: report, tables and the exported classifier are renewed" : "accepted: report and tables are renewed");
};
commands.discard = async () => {
  if (busy) return;
  const yes = await confirm("Take the corrected classifier back?",
    "Report, tables and export show again what the run found itself. Your corrections stay, to be applied again.", "Take back",
    () => waited("/api/discard"));
  if (yes) { await reload(); say("taken back; the corrections are still here"); }
};
function mark(as, done) {
  const rows = targets();
  if (rows.length) return act({ do: "mark", rows, as }, `${count(rows.length, "image")} ${done}`);
}
function turn(by) {
  const ids = ["all", ...state.groups.map((group) => group.id)];
  go(ids[(Math.max(0, ids.indexOf(view)) + by + ids.length) % ids.length]);
  say(`${title()}, ${count(grid.rows.length, "image")}`);
}
function nextOrder() {
  const options = [...$("order").options].filter((option) => !option.hidden);
  order = options[(options.findIndex((option) => option.value === order) + 1) % options.length].value;
  showList();
  say($("order").selectedOptions[0].textContent);
}
const KEYS = {
  m: "move", c: "confirm", b: "make", u: "unsure", x: "none", Backspace: "clear", Delete: "clear", l: "near",
  n: "name", g: "merge", s: "split", z: "undo", y: "redo", a: "apply", v: "view", f: "lasso", "?": "help",
};
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.closest("input, select")) return;
  const onButton = event.target.closest("button");
  if (onButton && (event.key === "Enter" || event.key === " ")) return;
  if (event.ctrlKey || event.metaKey) {
    const turnBack = { z: event.shiftKey ? "redo" : "undo", Z: "redo", y: "redo" }[event.key];
    if (turnBack) { event.preventDefault(); commands[turnBack](); return; }
    if (event.key !== "a") return;
  }
  if (event.altKey) return;
  if (onMap() ? map?.key(event) : (!onButton || !event.key.startsWith("Arrow")) && grid.key(event)) return;
  if (event.key === "Escape") commands.drop();
  else if (event.key === "[" || event.key === "]") turn(event.key === "]" ? 1 : -1);
  else if (event.key === "o") nextOrder();
  else if (commands[KEYS[event.key]]) { event.preventDefault(); commands[KEYS[event.key]](); }
});
$("groups").addEventListener("keydown", (event) => {
  const item = document.activeElement.closest("li");
  const way = { ArrowDown: "nextElementSibling", ArrowRight: "nextElementSibling", ArrowUp: "previousElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (!item || !way) return;
  item[way]?.querySelector("button").focus();
  event.preventDefault();
});
for (const [id, run] of Object.entries(commands)) $(id)?.addEventListener("click", () => run());
$("view-back").addEventListener("click", () => commands.view());
$("order").addEventListener("change", () => { order = $("order").value; showList(); });
$("zoom-in").addEventListener("click", () => map?.zoom(1.5));
$("zoom-out").addEventListener("click", () => map?.zoom(1 / 1.5));
$("zoom-fit").addEventListener("click", () => map?.whole());

function hover(row, x, y) {
  const box = $("hover");
  box.hidden = row < 0;
  if (row < 0) return;
  if (box.dataset.row !== String(row)) {
    box.dataset.row = row;
    box.replaceChildren(make("img", { src: thumb(row), alt: "" }),
      make("div", { dir: "auto", textContent: nameOf(images.group[row]) }),
      make("div", { textContent: images.mark[row] ? ["", "corrected by hand", "not sure", "none of these"][images.mark[row]] : `confidence ${percent(images.confidence[row])}` }));
  }
  const { width, height } = box.getBoundingClientRect();
  box.style.left = Math.max(8, x + 16 + width > innerWidth ? x - 16 - width : x + 16) + "px";
  box.style.top = Math.max(8, Math.min(y + 16, innerHeight - height - 8)) + "px";
}
function showNotes() {
  if (!state.notes.length) return;
  const list = make("ul", {}, ...state.notes.map((text) => make("li", { textContent: text })));
  $("notes").replaceChildren(list, make("button", { textContent: "Close", onclick: () => { $("notes").hidden = true; } }));
  $("notes").hidden = false;
}

async function showMap(plane) {
  points = new Float32Array(await plane);
  map = newMap($("canvas"), {
    points, groupOf: () => images.group, colour, listed: () => listed, selected: () => grid.selected, hover, open: enlarge,
    says: (row) => say(`image ${row}, ${nameOf(images.group[row])}, confidence ${percent(images.confidence[row])}`),
    select(rows, more) {
      if (rows.length > 1) {
        const both = more ? [...new Set([...grid.selected, ...rows])] : rows;
        showFound("Selected on the map", both);
        grid.select(both);
        say(`${count(both.length, "image")} selected`);
        return;
      }
      const [row] = rows;
      if (!listed[row]) go(more ? "all" : images.group[row]);
      const next = more ? new Set(grid.selected) : new Set();
      if (more && next.has(row)) next.delete(row); else next.add(row);
      grid.goTo(grid.rows.indexOf(row));
      grid.select(next);
    },
  });
}

// The list first, which needs no more than the clusters and the images' numbers; then the map.
try {
  const plane = bytes("/api/points");
  plane.catch(() => {}); // told where it is waited for
  grid = newGrid($("grid"), { source: thumb, decorate, chosen: chose, open: enlarge });
  await fetched();
  // Of small images every pixel is to be seen; load events are caught on their way down.
  $("grid").addEventListener("load", (event) => {
    document.body.classList.toggle("pixels", event.target.naturalWidth <= 32);
  }, { capture: true, once: true });
  showAll();
  showNotes();
  performance.mark("list");
  $("grid").focus({ preventScroll: true });
  await showMap(plane);
  performance.mark("map");
  document.documentElement.dataset.ready = "true";
} catch (error) {
  failed(error);
}
// For tests.
window.explorer = { get state() { return state; }, get images() { return images; }, get points() { return points; }, get map() { return map; }, get grid() { return grid; }, get view() { return view; } };
