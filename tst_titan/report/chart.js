// Loss curves that can be read: hover or arrow keys for values, drag or Ctrl + wheel to zoom, runs on and off.
// Plain SVG over the JSON that tst_titan/report/chart_data.py writes; nothing is loaded from anywhere.
"use strict";

(() => {
  const NS = "http://www.w3.org/2000/svg";
  const MARGIN = { top: 12, right: 14, bottom: 46, left: 58 };
  const MARKERS = {
    o: "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z", s: "M-3.3-3.3h6.6v6.6h-6.6Z",
    D: "M0-4.4L4.4 0L0 4.4L-4.4 0Z", "^": "M0-4.3L4.2 3.4H-4.2Z", v: "M0 4.3L4.2-3.4H-4.2Z",
    "<": "M-4.3 0L3.4-4.2V4.2Z", ">": "M4.3 0L-3.4-4.2V4.2Z",
    P: "M-1.5-4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9Z",
    X: "M0-1.9L2.4-4.3L4.3-2.4L1.9 0L4.3 2.4L2.4 4.3L0 1.9L-2.4 4.3L-4.3 2.4L-1.9 0L-4.3-2.4L-2.4-4.3Z",
    "*": "M0-4.8L1.2-1.6L4.6-1.5L1.9.6L2.8 3.9L0 2L-2.8 3.9L-1.9.6L-4.6-1.5L-1.2-1.6Z",
    p: "M0-4.4L4.2-1.4L2.6 3.6H-2.6L-4.2-1.4Z", h: "M0-4.4L3.8-2.2V2.2L0 4.4L-3.8 2.2V-2.2Z",
  };
  const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const power = (value) => {
    if (value === 0) return "0";
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const raised = [...String(Number(exponent))].map((digit) => SUPERSCRIPT[digit]).join("");
    return `${Number(mantissa)} × 10${raised}`;
  };
  const scaled = (value) => {
    for (const [factor, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= factor) return `${Number((value / factor).toPrecision(4))}${letter}`;
    }
    return String(Number(value.toPrecision(4)));
  };
  const FORMATS = { step: number, flops: power, data_tokens: scaled, hours: (value) => String(Number(value.toPrecision(3))) };
  const WORDS = { step: "step", flops: "FLOPs", data_tokens: "data tokens", hours: "hours" };

  function make(name, attributes = {}, parent = null, text = null) {
    const svg = ["svg", "g", "path", "line", "rect", "text", "clipPath", "circle"].includes(name);
    const element = svg ? document.createElementNS(NS, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function ticks([low, high], wanted) {
    const rough = (high - low) / wanted;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((times) => times * size).find((each) => each >= rough);
    const made = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) made.push(i * step || 0);
    return made;
  }

  function nearest(xs, x) {
    let low = 0;
    let high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return x - xs[low] < xs[high] - x ? low : high;
  }

  class LossChart {
    constructor(root, data, id) {
      Object.assign(this, { root, data, id, axis: "step", group: 0, logged: false, cursor: null, drag: null });
      this.shown = new Set(data.runs.filter((run) => run.shown).map((run) => run.name));
      this.controls();
      this.svg = make("svg", {
        tabindex: 0, role: "application", "aria-roledescription": "interactive line chart",
        "aria-label": `${data.title}: loss curves. Left and right arrows read values, plus and minus zoom, zero resets.`,
      }, root);
      this.where = make("p", { class: "where", "aria-live": "polite" }, root);
      this.legend = make("fieldset", { class: "legend" }, root);
      this.listen();
      this.reset("readable");
    }

    get runs() { return this.data.runs.filter((run) => run.group === this.data.groups[this.group].name); }
    get visible() { return this.runs.filter((run) => this.shown.has(run.name)); }

    controls() {
      const bar = make("div", { class: "controls" }, this.root);
      const against = make("label", {}, bar, "Against ");
      const axis = make("select", { "data-role": "axis" }, against);
      for (const each of this.data.axes) make("option", { value: each.key }, axis, each.label);
      axis.addEventListener("change", () => { this.axis = axis.value; this.reset(); });
      if (this.data.groups.length > 1) {
        const label = make("label", {}, bar, "Runs of ");
        const group = make("select", { "data-role": "group" }, label);
        this.data.groups.forEach((each, i) => make("option", { value: i }, group, each.name || "all"));
        group.addEventListener("change", () => { this.group = Number(group.value); this.reset(); });
      }
      const button = (text, action) => {
        const made = make("button", { type: "button" }, bar, text);
        made.addEventListener("click", action);
        return made;
      };
      this.views = {
        readable: button("Token phases", () => this.reset("readable")),
        whole: button("Whole course", () => this.reset("whole")),
      };
      button("+", () => this.zoomBy(0.6)).setAttribute("aria-label", "Zoom in");
      button("−", () => this.zoomBy(1 / 0.6)).setAttribute("aria-label", "Zoom out");
      button("Reset", () => this.reset());
      const logged = make("label", {}, bar);
      const box = make("input", { type: "checkbox", "data-role": "logged" }, logged);
      logged.append(" as logged");
      box.addEventListener("change", () => { this.logged = box.checked; this.draw(); });
    }

    reset(view = this.view) {
      this.view = view;
      for (const [name, button] of Object.entries(this.views)) button.setAttribute("aria-pressed", String(name === view));
      const ends = (this.visible.length ? this.visible : this.runs).map((run) => run.segments.at(-1)[this.axis].at(-1));
      this.x = [0, Math.max(...ends) * 1.01];
      this.y = [...this.data.groups[this.group][view]];
      this.cursor = null;
      this.drawLegend();
      this.draw();
    }

    drawLegend() {
      this.legend.replaceChildren(make("legend", { class: "hidden-text" }, null, "Runs"));
      this.legend.classList.toggle("many", this.runs.length > 24);
      this.outputs = new Map();
      if (this.runs.length > 8) {
        const row = make("div", { class: "controls all" }, this.legend);
        for (const [text, on] of [["Show all", true], ["Show none", false]]) {
          make("button", { type: "button" }, row, text).addEventListener("click", () => {
            for (const run of this.runs) if (on) this.shown.add(run.name); else this.shown.delete(run.name);
            this.drawLegend();
            this.draw();
          });
        }
      }
      const repeated = new Set(this.runs.map((run) => run.label)).size < this.runs.length;
      for (const run of this.runs) {
        const label = make("label", {}, this.legend);
        const box = make("input", { type: "checkbox", "data-run": run.name }, label);
        box.checked = this.shown.has(run.name);
        box.addEventListener("change", () => {
          if (box.checked) this.shown.add(run.name); else this.shown.delete(run.name);
          this.draw();
        });
        const swatch = make("svg", { viewBox: "-16 -7 32 14", "aria-hidden": "true" }, label);
        make("line", { x1: -15, x2: 15, y1: 0, y2: 0, style: `stroke:${run.colour}`, "stroke-width": 2 }, swatch);
        make("path", { d: MARKERS[run.marker] || MARKERS.o, style: `fill:${run.colour}` }, swatch);
        make("span", { class: "name" }, label, repeated ? run.name : run.label);
        this.outputs.set(run.name, make("output", {}, label));
      }
    }

    draw() {
      const width = Math.max(300, Math.round(this.root.clientWidth));
      const height = Math.round(Math.min(440, Math.max(290, width * 0.5)));
      this.size = { width, height, right: width - MARGIN.right, bottom: height - MARGIN.bottom };
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.replaceChildren();
      const clip = make("clipPath", { id: `${this.id}-clip` }, this.svg);
      make("rect", {
        x: MARGIN.left, y: MARGIN.top, width: this.size.right - MARGIN.left, height: this.size.bottom - MARGIN.top,
      }, clip);
      this.drawAxes();
      const plot = make("g", { "clip-path": `url(#${this.id}-clip)` }, this.svg);
      for (const run of this.visible) this.drawRun(plot, run);
      this.drawSwitches(plot);
      this.pointer = make("g", { "clip-path": `url(#${this.id}-clip)` }, this.svg);
      this.readout();
    }

    px(value) { return MARGIN.left + ((value - this.x[0]) / (this.x[1] - this.x[0])) * (this.size.right - MARGIN.left); }
    py(value) { return this.size.bottom - ((value - this.y[0]) / (this.y[1] - this.y[0])) * (this.size.bottom - MARGIN.top); }
    dataX(pixel) { return this.x[0] + ((pixel - MARGIN.left) / (this.size.right - MARGIN.left)) * (this.x[1] - this.x[0]); }
    dataY(pixel) { return this.y[0] + ((this.size.bottom - pixel) / (this.size.bottom - MARGIN.top)) * (this.y[1] - this.y[0]); }

    drawAxes() {
      const { right, bottom, width } = this.size;
      const format = FORMATS[this.axis];
      for (const value of ticks(this.x, width < 560 ? 3 : 6)) {
        make("line", { class: "grid", x1: this.px(value), x2: this.px(value), y1: MARGIN.top, y2: bottom }, this.svg);
        make("text", { x: this.px(value), y: bottom + 17, "text-anchor": "middle" }, this.svg, format(value));
      }
      const levels = ticks(this.y, 6);
      const digits = Math.max(0, Math.min(5, -Math.floor(Math.log10((levels[1] ?? 1) - (levels[0] ?? 0)) + 1e-9)));
      for (const value of levels) {
        make("line", { class: "grid", x1: MARGIN.left, x2: right, y1: this.py(value), y2: this.py(value) }, this.svg);
        make("text", { x: MARGIN.left - 7, y: this.py(value) + 4, "text-anchor": "end" }, this.svg, value.toFixed(digits));
      }
      make("path", { class: "frame", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}`, fill: "none" }, this.svg);
      const label = this.data.axes.find((each) => each.key === this.axis).label;
      make("text", { class: "axis-title", x: (MARGIN.left + right) / 2, y: bottom + 38, "text-anchor": "middle" }, this.svg, label);
      make("text", {
        class: "axis-title", transform: `translate(14 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle",
      }, this.svg, "Loss, nats per token");
    }

    path(xs, ys) {
      const points = xs.map((x, i) => `${this.px(x).toFixed(1)} ${this.py(ys[i]).toFixed(1)}`);
      return `M${points.join("L")}`;
    }

    drawRun(plot, run) {
      const style = `stroke:${run.colour};fill:none`;
      const xs = [];
      const ys = [];
      for (const part of run.segments) {
        const x = part[this.axis];
        if (this.logged) make("path", { d: this.path(x, part.loss), style, opacity: 0.3, "stroke-width": 0.8 }, plot);
        if (part.bag) {
          make("path", { d: this.path(x, part.smoothed), style, opacity: 0.65, "stroke-width": 1.5, "stroke-dasharray": "5 3" }, plot);
        } else {
          xs.push(...x);
          ys.push(...part.smoothed);
        }
      }
      if (!xs.length) return;
      make("path", { d: this.path(xs, ys), style, "stroke-width": 2, "stroke-linejoin": "round", "data-curve": run.name }, plot);
      const inside = xs.map((x, i) => i).filter((i) => xs[i] >= this.x[0] && xs[i] <= this.x[1]);
      const every = Math.max(1, Math.floor(inside.length / 9));
      for (let i = every >> 1; i < inside.length; i += every) {
        const place = `translate(${this.px(xs[inside[i]]).toFixed(1)} ${this.py(ys[inside[i]]).toFixed(1)})`;
        make("path", { d: MARKERS[run.marker] || MARKERS.o, transform: place, style: `fill:${run.colour}` }, plot);
      }
    }

    drawSwitches(plot) {
      const places = new Map();
      for (const run of this.visible) {
        for (const part of run.segments) if (part.bag) places.set(part[this.axis].at(-1), run.colour);
      }
      const few = places.size <= 4;
      for (const [x, colour] of places) {
        const at = this.px(x);
        const style = `stroke:${colour}`;
        make("line", { x1: at, x2: at, y1: MARGIN.top, y2: this.size.bottom, style, "stroke-dasharray": "1.5 3", opacity: few ? 1 : 0.4 }, plot);
        if (few) make("text", { class: "note", x: at + 4, y: MARGIN.top + 11 }, plot, "switch");
      }
    }

    rowAt(run, x) {
      const reach = (this.x[1] - this.x[0]) * 0.01;
      let best = null;
      for (const part of run.segments) {
        const i = nearest(part[this.axis], x);
        const far = Math.abs(part[this.axis][i] - x);
        if (best === null || far < best.far) best = { part, i, far };
      }
      const gap = Math.abs((best.part[this.axis][best.i + 1] ?? best.part[this.axis][best.i - 1] ?? x) - best.part[this.axis][best.i]);
      return best.far <= Math.max(reach, gap) ? best : null;
    }

    readout() {
      this.pointer.replaceChildren();
      for (const run of this.runs) this.outputs.get(run.name).textContent = this.shown.has(run.name) ? run.final : "";
      if (this.cursor === null) {
        this.where.textContent = matchMedia("(hover: hover)").matches
          ? "Final losses. Hover or use the arrow keys for values; drag or Ctrl + wheel zooms."
          : "Final losses. Tap a curve for values.";
        return;
      }
      const at = this.px(this.cursor);
      make("line", { class: "frame", x1: at, x2: at, y1: MARGIN.top, y2: this.size.bottom, "data-role": "crosshair" }, this.pointer);
      for (const run of this.visible) {
        const row = this.rowAt(run, this.cursor);
        const output = this.outputs.get(run.name);
        output.textContent = "—";
        if (row === null) continue;
        const smoothed = row.part.smoothed[row.i];
        output.textContent = `${smoothed.toFixed(4)} (${row.part.loss[row.i].toFixed(3)})${row.part.bag ? " bag loss" : ""}`;
        make("circle", {
          cx: this.px(row.part[this.axis][row.i]), cy: this.py(smoothed), r: 4.5, style: `fill:${run.colour};stroke:var(--paper)`,
        }, this.pointer);
      }
      const word = WORDS[this.axis];
      const value = FORMATS[this.axis](this.cursor);
      this.where.textContent = `At ${word === "step" ? `step ${value}` : `${value} ${word}`}: smoothed loss, in brackets as logged.`;
    }

    zoomBy(factor, x = this.cursor ?? (this.x[0] + this.x[1]) / 2, y = null) {
      const about = ([low, high], middle) => [middle - (middle - low) * factor, middle + (high - middle) * factor];
      this.x = about(this.x, x);
      this.x[0] = Math.max(0, this.x[0]);
      if (y !== null) this.y = about(this.y, y);
      this.draw();
    }

    listen() {
      const place = (event) => {
        const box = this.svg.getBoundingClientRect();
        const scale = this.size.width / box.width;
        const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
        return {
          x: clamp((event.clientX - box.left) * scale, MARGIN.left, this.size.right),
          y: clamp((event.clientY - box.top) * scale, MARGIN.top, this.size.bottom),
        };
      };
      this.svg.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "mouse" && event.button === 0) {
          this.drag = place(event);
          this.svg.setPointerCapture(event.pointerId);
        }
        this.cursor = this.dataX(place(event).x);
        this.readout();
      });
      this.svg.addEventListener("pointermove", (event) => {
        const to = place(event);
        this.cursor = this.dataX(to.x);
        this.readout();
        if (this.drag === null) return;
        const [x, y] = [Math.min(this.drag.x, to.x), Math.min(this.drag.y, to.y)];
        const tall = Math.abs(to.y - this.drag.y) > 24;
        make("rect", {
          x, width: Math.abs(to.x - this.drag.x), y: tall ? y : MARGIN.top,
          height: tall ? Math.abs(to.y - this.drag.y) : this.size.bottom - MARGIN.top, style: "fill:var(--muted)", opacity: 0.18,
        }, this.pointer);
      });
      this.svg.addEventListener("pointerup", (event) => {
        const from = this.drag;
        this.drag = null;
        if (from === null) return;
        const to = place(event);
        if (Math.abs(to.x - from.x) > 8) {
          const [low, high] = [from.x, to.x].sort((a, b) => a - b).map((pixel) => this.dataX(pixel));
          const [bottom, top] = [from.y, to.y].sort((a, b) => b - a).map((pixel) => this.dataY(pixel));
          this.x = [low, high];
          if (Math.abs(to.y - from.y) > 24) this.y = [bottom, top];
          this.draw();
        }
      });
      this.svg.addEventListener("pointerleave", () => { if (this.drag === null) { this.cursor = null; this.readout(); } });
      this.svg.addEventListener("pointercancel", () => { this.drag = null; this.readout(); });
      this.svg.addEventListener("dblclick", () => this.reset());
      this.svg.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const at = place(event);
        this.zoomBy(event.deltaY < 0 ? 0.8 : 1.25, this.dataX(at.x), this.dataY(at.y));
      }, { passive: false });
      this.svg.addEventListener("keydown", (event) => {
        const step = (this.x[1] - this.x[0]) * (event.shiftKey ? 0.1 : 0.01);
        const from = this.cursor ?? this.x[1];
        const moves = { ArrowLeft: from - step, ArrowRight: from + step, Home: this.x[0], End: this.x[1] };
        if (event.key in moves) {
          this.cursor = Math.min(this.x[1], Math.max(this.x[0], moves[event.key]));
          this.readout();
        } else if (event.key === "+" || event.key === "-") {
          this.zoomBy(event.key === "+" ? 0.7 : 1 / 0.7);
        } else if (event.key === "0" || event.key === "Escape") {
          this.reset();
        } else {
          return;
        }
        event.preventDefault();
      });
    }
  }

  for (const root of document.querySelectorAll(".chart[data-curves]")) {
    // Hidden until it works: if anything here fails, the static figures beside it stay.
    const data = JSON.parse(document.getElementById(root.dataset.curves).textContent);
    root.classList.add("ready");
    try {
      const chart = new LossChart(root, data, root.dataset.curves);
      let width = root.clientWidth;
      new ResizeObserver(() => {
        if (root.clientWidth === width || root.clientWidth === 0) return;
        width = root.clientWidth;
        chart.draw();
      }).observe(root);
    } catch (error) {
      root.classList.remove("ready");
      throw error;
    }
  }
  for (const section of document.querySelectorAll("details.printed")) {
    addEventListener("beforeprint", () => { section.dataset.was = section.open; section.open = true; });
    addEventListener("afterprint", () => { section.open = section.dataset.was === "true"; });
  }
})();
