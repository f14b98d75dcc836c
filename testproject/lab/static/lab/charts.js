// The two charts: requests each second over time, on one time axis and one scale.
// Answered and slow requests stand on the line, failed ones hang below it.
"use strict";

const Charts = (() => {
  const BIN = JSON.parse(document.getElementById("shown").textContent).bin;
  const FAULTS = JSON.parse(document.getElementById("shown").textContent).faults;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const sides = {};
  let marks = [];
  let paused = false;
  let height = 24;
  let depth = 8;
  let right = 0; // of the time axis

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const width = () => (innerWidth <= 820 ? 30 : 60); // seconds that are shown

  function hatched() {
    const tile = document.createElement("canvas");
    const size = (tile.width = tile.height = 6 * devicePixelRatio);
    const pen = tile.getContext("2d");
    pen.fillStyle = colour("slow-ground");
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = colour("slow");
    pen.lineWidth = size / 2.6;
    for (const shift of [-size, 0, size]) {
      pen.beginPath();
      pen.moveTo(shift - 1, size + 1);
      pen.lineTo(shift + size + 1, -1);
      pen.stroke();
    }
    return pen.createPattern(tile, "repeat");
  }

  // A fault: a band for as long as it lasts, and a dashed line where it began.
  function drawMark(plot, mark) {
    const { ctx, bbox } = plot;
    const from = plot.valToPos(mark.began, "x", true);
    const to = plot.valToPos(mark.ended ?? right, "x", true);
    ctx.fillStyle = colour("band");
    ctx.fillRect(from, bbox.top, Math.max(0, to - from), bbox.height);
    ctx.beginPath();
    ctx.moveTo(from, bbox.top);
    ctx.lineTo(from, bbox.top + bbox.height);
    ctx.stroke();
  }

  // Its name at the top, one row further down where another one is in the way.
  function drawNames(plot, ratio) {
    const { ctx, bbox } = plot;
    const ends = [];
    for (const mark of marks) {
      const from = plot.valToPos(mark.began, "x", true);
      if (from < bbox.left) continue;
      const name = FAULTS[mark.fault].mark;
      const wide = ctx.measureText(name).width;
      const left = Math.min(from + 5 * ratio, bbox.left + bbox.width - wide - 2 * ratio);
      let row = ends.findIndex((end) => end < left - 6 * ratio);
      if (row < 0) row = ends.length;
      ends[row] = left + wide;
      const top = bbox.top + (1 + row * 14) * ratio;
      ctx.fillStyle = colour("panel");
      ctx.fillRect(left - 2 * ratio, top, wide + 4 * ratio, 14 * ratio);
      ctx.fillStyle = colour("mark");
      ctx.fillText(name, left, top + ratio);
    }
  }

  function drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `600 ${12 * ratio}px ${colour("sans")}`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    ctx.strokeStyle = colour("mark");
    ctx.lineWidth = 1.5 * ratio;
    ctx.setLineDash([4 * ratio, 3 * ratio]);
    for (const mark of marks) drawMark(plot, mark);
    drawNames(plot, ratio);
    ctx.restore();
  }

  // A cross under each bar of failures, so that even one is seen, and not by its colour alone.
  function drawCrosses(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    const [times, , , failed] = plot.data;
    const size = 3 * ratio;
    ctx.save();
    ctx.strokeStyle = colour("failed");
    ctx.lineWidth = 1.75 * ratio;
    times.forEach((time, index) => {
      if (!failed[index] || time < plot.scales.x.min) return;
      const x = plot.valToPos(time, "x", true);
      const deepest = bbox.top + bbox.height - size - ratio;
      const y = Math.min(plot.valToPos(failed[index], "y", true) + size + 3 * ratio, deepest);
      ctx.beginPath();
      ctx.moveTo(x - size, y - size);
      ctx.lineTo(x + size, y + size);
      ctx.moveTo(x + size, y - size);
      ctx.lineTo(x - size, y + size);
      ctx.stroke();
    });
    ctx.restore();
  }

  function drawBase(plot) {
    const { ctx, bbox } = plot;
    const y = Math.round(plot.valToPos(0, "y", true));
    ctx.save();
    ctx.fillStyle = colour("muted");
    ctx.fillRect(bbox.left, y, bbox.width, devicePixelRatio);
    ctx.restore();
  }

  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

  // A time that has no room at the edge is left out.
  function times(plot, splits) {
    const room = (30 * width()) / plot.bbox.width * devicePixelRatio;
    const fits = (time) => time - (right - width()) > room && right - time > room;
    return splits.map((time) => (fits(time) ? clock(time) : ""));
  }

  function options(box) {
    const bars = uPlot.paths.bars({ size: [0.82, Infinity], align: 0 });
    const series = (fill) => ({ fill, width: 0, paths: bars, points: { show: false } });
    const axis = () => ({
      stroke: colour("muted"),
      font: `12px ${colour("sans")}`,
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { show: false },
    });
    return {
      width: box.clientWidth,
      height: box.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      padding: [6, 8, 0, 0],
      scales: {
        x: { time: true, range: () => [right - width(), right] },
        y: { range: () => [-depth, height] },
      },
      axes: [
        { ...axis(), size: 24, gap: 4, space: 80, incrs: [10, 15], values: times },
        {
          ...axis(),
          size: 32,
          gap: 4,
          splits: () => [-depth, 0, height / 2, height].map(Math.round),
          values: (_, all) => all.map((value) => Math.abs(value)),
        },
      ],
      series: [{}, series(hatched()), series(colour("answered")), series(colour("failed"))],
      hooks: { drawClear: [], draw: [drawBase, drawCrosses, drawMarks] },
    };
  }

  function table(bins) {
    const last = Math.floor(right / BIN);
    const data = [[], [], [], []];
    for (let number = last - Math.ceil(width() / BIN) - 2; number <= last; number += 1) {
      const [answered, slow, failed] = bins[number] ?? [0, 0, 0];
      data[0].push((number + 0.5) * BIN);
      data[1].push((answered + slow) / BIN || null);
      data[2].push(answered / BIN || null);
      data[3].push(-failed / BIN || null);
    }
    return data;
  }

  const ceiling = (value, step) => Math.ceil(value / step) * step;

  function draw() {
    const tables = Object.values(sides).map((side) => table(side.bins));
    height = ceiling(Math.max(40, ...tables.flatMap((data) => data[1])), 20);
    depth = ceiling(Math.max(20, ...tables.flatMap((data) => data[3].map((n) => -n))), 20);
    Object.values(sides).forEach((side, index) => side.plot.setData(tables[index]));
  }

  function build() {
    for (const side of Object.values(sides)) {
      side.plot?.destroy();
      side.plot = new uPlot(options(side.box), table(side.bins), side.box);
    }
  }

  function resize() {
    for (const { plot, box } of Object.values(sides)) {
      plot?.setSize({ width: box.clientWidth, height: box.clientHeight });
    }
  }

  function add(name, box) {
    sides[name] = { box, bins: {}, plot: null };
    new ResizeObserver(resize).observe(box);
  }

  function show(news) {
    marks = news.marks;
    for (const [name, side] of Object.entries(sides)) {
      Object.assign(side.bins, news.sides[name].bins);
      const oldest = news.now / BIN - 150;
      for (const number of Object.keys(side.bins)) if (number < oldest) delete side.bins[number];
    }
    // The last reports are under way, so what is shown ends a little earlier. Who wants less motion
    // gets a window that moves on in steps.
    const present = news.now - BIN;
    if (!paused) right = calm.matches ? ceiling(present, 10) : ceiling(present, BIN);
    if (!paused) draw();
  }

  dark.addEventListener("change", build);
  const plot = (name) => sides[name].plot;
  return { add, build, show, pause: (on) => (paused = on), clock, plot };
})();
