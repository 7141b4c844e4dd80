document.documentElement.classList.add("js");
document.querySelectorAll(".explorer").forEach(box => {
  const data = JSON.parse(box.querySelector("script").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const trials = new Map(data.trials.map(t => [String(t.number), t]));
  const kind = t => t.best ? "best" : t.state;
  const STATES = {complete: "completed", pruned: "ended early", fail: "failed", running: "running"};
  const hidden = {state: new Set(), shape: new Set()};
  let metric = Object.keys(data.metrics)[0], chosen = null;
  const make = (parent, name, attributes = {}, text) => {
    const el = parent.namespaceURI === NS || name === "svg" ? document.createElementNS(NS, name) : document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => el.setAttribute(key, value));
    if (text !== undefined) el.textContent = text;
    return parent.append(el), el;
  };
  const short = v => typeof v !== "number" ? String(v ?? "") : Math.abs(v) >= 1e5 || v && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(+v.toPrecision(4));
  const isShown = t => !hidden.state.has(t.state) && !hidden.shape.has(t.shape);
  const nameOf = t => `trial ${t.number}` + (t.name ? ` (${t.name})` : "") + (t.setting !== undefined ? `, setting ${t.setting}, seed ${t.seed ?? "none"}` : "");

  // A scale from values to pixels; values off a logarithm's range lie at its end.
  const scale = (low, high, isLog, from, to) => {
    const f = isLog ? v => Math.log(Math.max(v, low * 1e-6)) : v => v;
    const [a, b] = [f(low), f(high)];
    return v => from + (to - from) * (b > a ? (f(v) - a) / (b - a) : .5);
  };
  const ticks = (low, high, isLog, most = 6) => {
    if (isLog && high / low > 8) {
      const found = [];
      for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e++) found.push(10 ** e);
      if (found.length > 1) return found;
    }
    const step = 10 ** Math.floor(Math.log10((high - low) / 3 || 1)), m = [1, 2, 5, 10].find(k => (high - low) / (k * step) <= most) || 10;
    const found = [];
    for (let v = Math.ceil(low / (m * step)) * m * step; v <= high + 1e-12; v += m * step) found.push(+v.toPrecision(10));
    return found;
  };

  const buttons = (title, items, click) => {
    const row = make(box, "div", {class: "buttons", role: "group", "aria-label": title});
    make(row, "span", {}, title);
    items.forEach(([key, text, attribute]) => {
      const button = make(row, "button", {type: "button", "aria-pressed": "true", [attribute]: key}, text);
      button.addEventListener("click", () => click(key, button, row));
    });
    return row;
  };
  const counts = key => [...data.trials.reduce((c, t) => c.set(t[key], (c.get(t[key]) || 0) + 1), new Map())].sort((a, b) => b[1] - a[1]);
  const toggle = what => (key, button) => {
    hidden[what].has(key) ? hidden[what].delete(key) : hidden[what].add(key);
    button.setAttribute("aria-pressed", String(!hidden[what].has(key)));
    draw();
  };
  if (Object.keys(data.metrics).length > 1) {
    const row = buttons("metric", Object.keys(data.metrics).map(m => [m, m, "data-metric"]), (key, button) => {
      metric = key;
      row.querySelectorAll("button").forEach(b => b.setAttribute("aria-pressed", String(b === button)));
      draw();
    });
    row.querySelectorAll("button").forEach((b, i) => b.setAttribute("aria-pressed", String(!i)));
  }
  buttons("state", counts("state").map(([s, n]) => [s, `${STATES[s] || s} (${n})`, "data-state"]), toggle("state"));
  buttons("shape", counts("shape").map(([s, n]) => [s, `${s} (${n})`, "data-shape"]), toggle("shape"));
  // A unit is a pixel, so that texts can be read on a phone too.
  let W = 960, H = 420;
  const pad = {left: 62, right: 14, top: 10, bottom: 40};
  const curves = make(box, "svg", {role: "img"});
  const about = make(box, "div", {class: "about-trial", "aria-live": "polite"});
  const parallel = data.axes.length > 1 ? make(box, "svg", {role: "img"}) : null;
  const tip = make(box, "div", {class: "tip", hidden: ""});
  let drawn = [];  // {trial, points, el, svg}

  const line = (svg, group, t, points) => {
    const el = make(group, "polyline", {class: kind(t), points: points.map(p => p.map(v => v.toFixed(1)).join(",")).join(" ")});
    el.dataset.trial = t.number;
    drawn.push({t, points, el, svg});
  };
  const inOrder = list => [...list].sort((a, b) => !!a.best - !!b.best);
  const draw = () => {
    drawn = [];
    W = Math.max(300, Math.min(960, box.clientWidth || 960));
    H = Math.round(Math.max(260, .44 * W));
    curves.setAttribute("viewBox", `0 0 ${W} ${H}`);
    if (parallel) parallel.setAttribute("viewBox", `0 0 ${W} 300`);
    drawCurves();
    if (parallel) drawParallel();
    choose(chosen);
  };
  const drawCurves = () => {
    curves.replaceChildren();
    const {limits: [low, high], log, lines} = data.metrics[metric];
    const last = Math.max(...Object.values(lines).map(([x]) => x[x.length - 1]), 1e-9);
    const x = scale(0, last, false, pad.left, W - pad.right), y = scale(low, high, log, H - pad.bottom, pad.top);
    const clip = make(make(curves, "clipPath", {id: "inside"}), "rect", {x: pad.left, y: pad.top, width: W - pad.left - pad.right, height: H - pad.top - pad.bottom});
    ticks(0, last, false, W / 110).forEach(v => {
      make(curves, "line", {class: "tick", x1: x(v), x2: x(v), y1: pad.top, y2: H - pad.bottom});
      make(curves, "text", {x: x(v), y: H - pad.bottom + 16, "text-anchor": "middle"}, v.toLocaleString("en"));
    });
    ticks(low, high, log).forEach(v => {
      make(curves, "line", {class: "tick", x1: pad.left, x2: W - pad.right, y1: y(v), y2: y(v)});
      make(curves, "text", {x: pad.left - 6, y: y(v) + 4, "text-anchor": "end"}, short(v));
    });
    make(curves, "rect", {class: "frame", x: pad.left, y: pad.top, width: clip.getAttribute("width"), height: clip.getAttribute("height")});
    make(curves, "text", {x: W / 2, y: H - 6, "text-anchor": "middle"}, data.axis);
    make(curves, "text", {x: 14, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${H / 2})`}, metric);
    const group = make(curves, "g", {"clip-path": "url(#inside)"});
    const shown = inOrder(Object.keys(lines).map(n => trials.get(n)).filter(t => t && isShown(t)));
    shown.forEach(t => {
      const [xs, ys] = lines[t.number];
      line(curves, group, t, xs.map((v, i) => [x(v), y(ys[i])]));
    });
    curves.setAttribute("aria-label", `${metric} of ${shown.length} trials, from ${short(low)} to ${short(high)}`);
  };
  const drawParallel = () => {
    parallel.replaceChildren();
    const bottom = 270, gap = (W - 2 * pad.left) / (data.axes.length - 1);
    const isTight = gap < 110, top = isTight ? 46 : 30, most = Math.max(4, Math.floor(gap * (isTight ? 2 : 1) / 7.5));  // letters of a name
    const places = data.axes.map((axis, i) => {
      const at = pad.left + i * gap;
      make(parallel, "line", {class: "tick", x1: at, x2: at, y1: top, y2: bottom, style: "stroke-width:1"});
      make(parallel, "text", {x: at, y: isTight && i % 2 ? 30 : 16, "text-anchor": "middle", "font-weight": 600}, axis.name.length > most ? axis.name.slice(0, most - 1) + "…" : axis.name);
      if (axis.choices) {
        const y = v => bottom - (bottom - top) * (axis.choices.length > 1 ? axis.choices.indexOf(String(v)) / (axis.choices.length - 1) : .5);
        if (axis.choices.length <= 8) axis.choices.forEach(c => make(parallel, "text", {x: at + 5, y: y(c) + 4}, c));
        return v => [at, y(v)];
      }
      const end = v => isTight ? String(+v.toPrecision(2)) : short(v);
      make(parallel, "text", {x: at, y: bottom + 16, "text-anchor": "middle"}, end(axis.low));
      make(parallel, "text", {x: at + 5, y: top + 4}, end(axis.high));
      const y = scale(axis.low, axis.high, axis.log, bottom, top);
      return v => [at, Math.min(Math.max(y(v), top - 6), bottom + 4)];
    });
    const group = make(parallel, "g");
    inOrder(data.trials.filter(isShown)).forEach(t => {
      const values = data.axes.map((axis, i) => i === data.axes.length - 1 ? t.objective : t.params[axis.name]);
      const points = values.map((v, i) => v === undefined || v === null ? null : places[i](v)).filter(Boolean);
      if (points.length > 1) line(parallel, group, t, points);
    });
    parallel.setAttribute("aria-label", `parameters and objective of ${data.trials.filter(isShown).length} trials, a line each over ${data.axes.map(a => a.name).join(", ")}`);
  };

  // The line nearest to a point of a drawing, among its parts that lie beside it.
  const nearest = (svg, event) => {
    const frame = svg.getBoundingClientRect(), k = W / frame.width;
    const px = (event.clientX - frame.left) * k, py = (event.clientY - frame.top) * k;
    let found = null, least = 18;
    for (const one of drawn) {
      if (one.svg !== svg) continue;
      const p = one.points;
      for (let i = 0; i < p.length; i++) {
        const q = p[Math.min(i + 1, p.length - 1)];
        if (p[i][0] > px + 18 || q[0] < px - 18) continue;
        const dx = q[0] - p[i][0], dy = q[1] - p[i][1], l = dx * dx + dy * dy;
        const s = l ? Math.min(Math.max(((px - p[i][0]) * dx + (py - p[i][1]) * dy) / l, 0), 1) : 0;
        const d = Math.hypot(p[i][0] + s * dx - px, p[i][1] + s * dy - py);
        if (d < least) least = d, found = one;
      }
    }
    return found;
  };
  const choose = t => {
    chosen = t;
    [curves, parallel].forEach(svg => svg && svg.classList.toggle("isolated", !!t));
    drawn.forEach(one => one.el.classList.toggle("chosen", one.t === t));
    about.replaceChildren();
    if (!t) return make(about, "span", {}, "Click a line, or a trial's number in a table, to see what is known of it.");
    make(about, "strong", {}, nameOf(t));
    const list = make(about, "dl");
    const row = (name, text) => text !== undefined && text !== "" && (make(list, "dt", {}, name), make(list, "dd", {}, text));
    row("objective", t.objective === undefined ? undefined : short(t.objective));
    row("ended", t.why);
    row("shape", t.reason ? `${t.shape}: ${t.reason}` : t.shape);
    row("fix", t.fix);
    row("parameters", Object.entries(t.params).filter(([, v]) => v !== null).map(([k, v]) => `${k}=${short(v)}`).join("  "));
    if (t.folder) {
      make(list, "dt", {}, "folder");
      const dd = make(list, "dd"), to = t.folder.startsWith("/") ? `file://${t.folder}` : `${document.body.dataset.folder}/${t.folder}`;
      make(dd, "a", {href: encodeURI(to) + "/"}, t.folder);
      make(dd, "span", {}, " · ");
      make(dd, "a", {href: `${encodeURI(to)}/${data.log}`}, data.log);
    }
    if (t.command) make(list, "dt", {}, "run it again"), make(make(list, "dd"), "code", {}, t.command);
  };
  [curves, parallel].forEach(svg => {
    if (!svg) return;
    svg.addEventListener("pointermove", event => {
      const near = nearest(svg, event), t = near && near.t;
      drawn.forEach(one => one.el.classList.toggle("near", one.t === t));
      tip.hidden = !t;
      if (!t) return;
      const frame = box.getBoundingClientRect();
      tip.textContent = `${nameOf(t)}: ${t.shape}` + (t.objective === undefined ? `, ${STATES[t.state] || t.state}` : `, objective ${short(t.objective)}`);
      tip.style.left = `${Math.min(event.clientX - frame.left + 12, frame.width - 180)}px`;
      tip.style.top = `${event.clientY - frame.top + 14}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; drawn.forEach(one => one.el.classList.remove("near")); });
    svg.addEventListener("click", event => { const near = nearest(svg, event); choose(near && near.t !== chosen ? near.t : null); });
  });
  draw();
  new ResizeObserver(() => { if (Math.abs(W - Math.max(300, Math.min(960, box.clientWidth))) > 1) draw(); }).observe(box);

  // A trial's number in any table leads to what is known of it.
  document.querySelectorAll(".table table").forEach(table => {
    const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === "trial");
    if (at < 0) return;
    [...table.tBodies[0].rows].forEach(row => {
      const t = trials.get(row.cells[at].textContent.trim());
      if (!t) return;
      row.cells[at].replaceChildren();
      const button = make(row.cells[at], "button", {type: "button", class: "to-trial", "aria-label": `what is known of trial ${t.number}`}, t.number);
      button.addEventListener("click", () => { choose(t); box.scrollIntoView({behavior: "smooth"}); });
    });
  });
});

// A field above each long table keeps the rows that hold all of its words.
document.querySelectorAll(".table").forEach(box => {
  const rows = [...box.querySelectorAll("tbody tr")];
  if (rows.length <= 10) return;
  const field = document.createElement("input");
  Object.assign(field, {type: "search", className: "filter", placeholder: "filter rows"});
  field.setAttribute("aria-label", "filter the rows of: " + box.querySelector("caption").textContent);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(row => { const text = row.textContent.toLowerCase(); row.hidden = !words.every(word => text.includes(word)); });
  });
  box.before(field);
});
