// A list of images of any length: only the tiles in sight exist.

import { make } from "./dialogs.js";

const GAP = 6, SPARE = 2;

export function grid(element, { source, decorate, chosen, open }) {
  const space = make("div", { className: "space" });
  space.setAttribute("role", "presentation");
  element.append(space);
  const tiles = new Map();
  let rows = new Uint32Array(), cursor = 0, anchor = 0, columns = 1, cell = 112, waiting = 0;
  const selected = new Set();

  function measure() {
    const width = space.clientWidth;
    const wanted = width < 500 ? 88 : 118;
    columns = Math.max(2, Math.floor((width + GAP) / (wanted + GAP)));
    cell = (width + GAP) / columns - GAP;
    const lines = Math.ceil(rows.length / columns);
    space.style.height = lines * (cell + GAP) + "px";
  }
  function paint() {
    waiting = 0;
    const top = element.scrollTop, height = element.clientHeight, line = cell + GAP;
    const first = Math.max(0, (Math.floor(top / line) - SPARE) * columns);
    const last = Math.min(rows.length, (Math.ceil((top + height) / line) + SPARE) * columns);
    for (const [place, tile] of tiles) {
      if (place < first || place >= last || tile.row !== rows[place]) {
        tile.element.remove();
        tiles.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      const tile = tiles.get(place) ?? added(place);
      decorate(tile.element, tile.row, tile);
      tile.element.setAttribute("aria-selected", selected.has(tile.row));
      tile.element.classList.toggle("cursor", place === cursor);
    }
    const there = tiles.get(cursor);
    if (there) element.setAttribute("aria-activedescendant", there.element.id);
    else element.removeAttribute("aria-activedescendant");
  }
  function added(place) {
    const row = rows[place], image = make("img", { alt: "", draggable: false, decoding: "async", src: source(row) });
    const tile = make("div", { className: "tile", id: `tile-${row}` }, image);
    tile.setAttribute("role", "option");
    tile.setAttribute("aria-setsize", rows.length);
    tile.setAttribute("aria-posinset", place + 1);
    tile.dataset.place = place;
    const style = tile.style, line = cell + GAP;
    style.width = style.height = cell + "px";
    style.left = (place % columns) * line + "px";
    style.top = Math.floor(place / columns) * line + "px";
    space.append(tile);
    const made = { element: tile, row, tag: null, swatch: null };
    tiles.set(place, made);
    return made;
  }
  function soon() {
    waiting ||= requestAnimationFrame(paint);
  }
  function lay() {
    for (const tile of tiles.values()) tile.element.remove();
    tiles.clear();
    measure();
    paint();
  }
  function reveal(place) {
    const line = cell + GAP, top = Math.floor(place / columns) * line;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + line + GAP > element.scrollTop + element.clientHeight) element.scrollTop = top + line + GAP - element.clientHeight;
  }
  function goTo(place, { extend = false } = {}) {
    if (!rows.length) return;
    cursor = Math.max(0, Math.min(rows.length - 1, place));
    if (extend) range();
    else anchor = cursor;
    reveal(cursor);
    paint();
    chosen();
  }
  function range() {
    selected.clear();
    for (let i = Math.min(anchor, cursor); i <= Math.max(anchor, cursor); i++) selected.add(rows[i]);
  }
  function toggle(place) {
    const row = rows[place];
    if (!selected.delete(row)) selected.add(row);
  }
  function key(event) {
    const page = Math.max(1, Math.floor(element.clientHeight / (cell + GAP)) - 1) * columns;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page }[event.key];
    if (by !== undefined) goTo(cursor + by, { extend: event.shiftKey });
    else if (event.key === "Home") goTo(0, { extend: event.shiftKey });
    else if (event.key === "End") goTo(rows.length - 1, { extend: event.shiftKey });
    else if (event.key === " ") { if (rows.length) toggle(cursor); anchor = cursor; paint(); chosen(); }
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) { for (const row of rows) selected.add(row); paint(); chosen(); }
    else if (event.key === "Enter") { if (rows.length) open(rows[cursor]); }
    else return false;
    event.preventDefault();
    return true;
  }

  let held = "mouse";
  element.addEventListener("pointerdown", (event) => { held = event.pointerType; });
  element.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const place = Number(tile.dataset.place);
    if (event.shiftKey) { cursor = place; range(); }
    else {
      if (event.ctrlKey || event.metaKey || held === "touch") toggle(place);
      else { const only = selected.size === 1 && selected.has(rows[place]); selected.clear(); if (!only) selected.add(rows[place]); }
      cursor = anchor = place;
    }
    paint();
    chosen();
  });
  element.addEventListener("dblclick", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) open(rows[Number(tile.dataset.place)]);
  });
  element.addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(lay).observe(element);

  return {
    selected, key, paint, goTo,
    get cursor() { return rows.length ? rows[cursor] : -1; },
    get rows() { return rows; },
    // Another list; the cursor stays at its place where it is the same list after a change.
    show(list, { keep = false } = {}) {
      rows = list;
      const there = new Set(rows);
      for (const row of selected) if (!there.has(row)) selected.delete(row);
      cursor = anchor = keep ? Math.min(cursor, Math.max(0, rows.length - 1)) : 0;
      if (!keep) element.scrollTop = 0;
      lay();
      chosen();
    },
    select(list) {
      selected.clear();
      for (const row of list) selected.add(row);
      paint();
      chosen();
    },
  };
}
