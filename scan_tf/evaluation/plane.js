// Points in a plane: which part of it is in sight, and what mouse, fingers, wheel and keys do there.
// The report has this file in it, the explorer serves it.

export function plane(canvas, points, { paint, moved, shown = () => true }) {
  const count = points.length / 2, low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  for (let i = 0; i < points.length; i++) {
    low[i % 2] = Math.min(low[i % 2], points[i]); high[i % 2] = Math.max(high[i % 2], points[i]);
  }
  // Of the view: its middle in the units of the points, and pixels for each unit.
  let x0 = 0, y0 = 0, scale = 1, whole = 1, width = 0, height = 0, waiting = 0, path = null;

  const x = (i) => (points[2 * i] - x0) * scale + width / 2;
  const y = (i) => (y0 - points[2 * i + 1]) * scale + height / 2;

  function fit() {
    x0 = (low[0] + high[0]) / 2; y0 = (low[1] + high[1]) / 2;
    whole = scale = 0.94 * Math.min(width / (high[0] - low[0] || 1), height / (high[1] - low[1] || 1));
  }
  function resize() {
    const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    if (!box.width || !box.height) return;
    const untouched = !width || scale === whole;
    width = box.width; height = box.height;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    if (untouched) fit();
    now();
  }
  function now() {
    waiting = 0;
    if (width) paint(width, height);
  }
  function draw() {
    waiting ||= requestAnimationFrame(now);
  }
  function nearest(px, py, reach = 14) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      const dx = x(i) - px, dy = y(i) - py, d = dx * dx + dy * dy;
      if (d < least && shown(i)) { least = d; best = i; }
    }
    return best;
  }
  function zoom(factor, px = width / 2, py = height / 2) {
    const goal = Math.max(whole * 0.7, Math.min(whole * 400, scale * factor));
    x0 += (px - width / 2) * (1 / scale - 1 / goal);
    y0 -= (py - height / 2) * (1 / scale - 1 / goal);
    scale = goal;
    moved();
    draw();
  }
  // Move no further than it takes to have a point in sight.
  function bring(i) {
    const px = x(i), py = y(i);
    if (px < 30 || px > width - 30) x0 = points[2 * i];
    if (py < 30 || py > height - 30) y0 = points[2 * i + 1];
  }
  // The point that lies next in a direction; -1: there is none.
  function next(from, right, down) {
    if (from < 0) return nearest(width / 2, height / 2, Infinity);
    const px = x(from), py = y(from);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      const along = (x(i) - px) * right + (y(i) - py) * down;
      const aside = Math.abs((x(i) - px) * down) + Math.abs((y(i) - py) * right);
      if (along < 4 || aside > along || !shown(i)) continue;
      if (along + 2 * aside < least) { least = along + 2 * aside; best = i; }
    }
    return best;
  }
  // Arrows go from point to point, plus, minus and 0 zoom; whether the key was one of these.
  function key(event, current, go) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    const middle = current < 0 ? [] : [x(current), y(current)];
    if (way) {
      const found = next(current, ...way);
      if (found >= 0) { bring(found); go(found); }
    } else if (event.key === "+" || event.key === "=") zoom(1.5, ...middle);
    else if (event.key === "-") zoom(1 / 1.5, ...middle);
    else if (event.key === "0") { fit(); draw(); }
    else return false;
    event.preventDefault();
    return true;
  }
  // `tap` and `hover` are told where, and the event. Where `draws` says so, dragging draws a line in
  // place of moving the view, which `drawn` is told of. The wheel zooms where `wheels` says so.
  function listen({ tap, hover, draws = () => false, drawn = () => {}, wheels = () => true }) {
    const pointers = new Map();
    let way = 0, apart = 0;
    const here = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, here(event));
      canvas.setPointerCapture(event.pointerId);
      way = apart = 0;
      path = pointers.size === 1 && draws(event) ? [here(event)] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const [px, py] = here(event), before = pointers.get(event.pointerId);
      if (!before) { hover(px, py, event); return; }
      if (pointers.size === 1) {
        way += Math.abs(px - before[0]) + Math.abs(py - before[1]);
        if (path) path.push([px, py]);
        else { x0 -= (px - before[0]) / scale; y0 += (py - before[1]) / scale; }
        if (way > 4) moved();
        draw();
      }
      pointers.set(event.pointerId, [px, py]);
      if (pointers.size === 2) {
        path = null;
        const [a, b] = [...pointers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (apart) zoom(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        apart = now; way = 99;
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const line = path;
      path = null;
      pointers.delete(event.pointerId);
      if (line && way > 8) { draw(); drawn(line, event); }
      else if (way <= 4) tap(...here(event), event);
    });
    canvas.addEventListener("pointercancel", (event) => { pointers.delete(event.pointerId); path = null; draw(); });
    // A finger leaves when it is lifted; what it tapped stays until the next touch or scroll.
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") moved(); });
    canvas.addEventListener("wheel", (event) => {
      if (!wheels(event)) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), ...here(event));
    }, { passive: false });
    new ResizeObserver(resize).observe(canvas);
  }

  return {
    x, y, draw, now, nearest, zoom, bring, key, listen,
    whole() { fit(); draw(); },
    // Pixels for each unit, and by how much that is more than with the whole plane in sight.
    get scale() { return scale; },
    get zoomed() { return scale / whole; },
    get path() { return path; },
    centre(i, least) { x0 = points[2 * i]; y0 = points[2 * i + 1]; scale = Math.max(scale, whole * least); draw(); },
  };
}
