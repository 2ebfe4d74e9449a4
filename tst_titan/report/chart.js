// Loss curves: Plotly draws them from the JSON that chart.py wrote; this sets axis, theme and what is shown.
"use strict";

(() => {
  const AXES = {
    step: { tickformat: ",d" },
    flops: { exponentformat: "power" },
    data_tokens: { exponentformat: "B" },
    hours: {},
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (value) => (value.startsWith("--") ? css(value) : value);
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true, displaylogo: false, scrollZoom: false,
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "pan2d", "zoom2d", "resetScale2d", "toImage"]],
  };

  function layoutOf(data, { axis, view, group, title }) {
    const line = { gridcolor: css("--rule"), linecolor: css("--muted"), zeroline: false, automargin: true };
    return {
      uirevision: `of ${group}`,
      font: { family: "inherit", size: 13, color: css("--ink") },
      paper_bgcolor: css("--paper"), plot_bgcolor: css("--paper"),
      margin: { l: 62, r: 12, t: 34, b: 48 },
      dragmode: touch ? false : "zoom",
      hovermode: "x unified",
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--rule"), font: { color: css("--ink") }, namelength: 30 },
      modebar: { orientation: "h", bgcolor: "transparent", color: css("--muted"), activecolor: css("--ink") },
      legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0, groupclick: "togglegroup" },
      xaxis: { ...line, ...AXES[axis], title: { text: title, font: { size: 13 }, standoff: 8 }, rangemode: "tozero", uirevision: `${group} ${axis}`, nticks: 7 },
      yaxis: { ...line, title: { text: "Loss, nats per token", font: { size: 13 } }, range: data.groups[group][view], uirevision: `${group} ${view}` },
    };
  }

  function tracesOf(data, { axis, loss, group }, drawn = []) {
    const visible = Object.fromEntries(drawn.map((trace) => [trace.uid, trace.visible]));
    return data.traces.filter(({ meta }) => meta.group === group).map((trace) => ({
      ...trace,
      visible: visible[trace.uid] ?? trace.visible,
      x: trace.meta.x[axis],
      y: trace.meta.y[loss] ?? trace.meta.y.smoothed,
      line: { ...trace.line, color: colour(trace.meta.colour) },
      marker: { ...trace.marker, color: colour(trace.meta.colour) },
    }));
  }

  function start(root) {
    const data = JSON.parse(document.getElementById(root.dataset.curves).textContent);
    const plot = root.querySelector(".plot");
    const draw = () => {
      const selects = [...root.querySelectorAll("select")];
      const chosen = Object.fromEntries(selects.map((select) => [select.name, select.value]));
      chosen.group ??= Object.keys(data.groups)[0];
      chosen.title = root.querySelector("[name=axis]").selectedOptions[0].label;
      return Plotly.react(plot, tracesOf(data, chosen, plot.data), layoutOf(data, chosen), config);
    };
    // Plotly measures where it draws. If it fails, the static figures stay instead.
    root.hidden = false;
    try {
      draw();
    } catch (error) {
      root.hidden = true;
      throw error;
    }
    root.classList.add("ready");
    root.addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    // A name in the legend is a button for the keyboard as well.
    plot.on("plotly_afterplot", () => {
      plot.querySelectorAll(".legend .traces").forEach((entry) => {
        const { trace } = entry.__data__[0];
        entry.setAttribute("tabindex", 0);
        entry.setAttribute("role", "switch");
        entry.setAttribute("aria-label", trace.name);
        entry.setAttribute("aria-checked", trace.visible === true);
        entry.onkeydown = (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          const members = plot.data.map((each, i) => i).filter((i) => plot.data[i].legendgroup === trace.legendgroup);
          Plotly.restyle(plot, { visible: trace.visible === true ? "legendonly" : true }, members);
        };
      });
    });
  }

  addEventListener("DOMContentLoaded", () => {
    if (!window.Plotly) return;
    document.querySelectorAll(".chart[data-curves]").forEach(start);
  });
  for (const section of document.querySelectorAll("details.printed")) {
    addEventListener("beforeprint", () => { section.dataset.was = section.open; section.open = true; });
    addEventListener("afterprint", () => { section.open = section.dataset.was === "true"; });
  }
})();
