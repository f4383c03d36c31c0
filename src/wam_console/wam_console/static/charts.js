// Small line charts on canvas, in the theme's colors.

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Fit the drawing buffer to the element; return its context and size in CSS pixels.
export function fit(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 2);
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

// Values over time; keeps `spanS` seconds.
export class Series {
  constructor(spanS) { this.spanS = spanS; this.points = []; }

  add(timeS, value) {
    if (value === null || value === undefined) return;
    this.points.push([timeS, value]);
    while (this.points.length && timeS - this.points[0][0] > this.spanS) this.points.shift();
  }

  get last() { return this.points.length ? this.points[this.points.length - 1][1] : null; }
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// Draw series over the last seconds. band: [low, high], shaded; dots: mark every point.
export function drawLines(canvas, nowS, lines, { spanS, band = null, unit = '', minTop = 1, dots = false, decimals = 0 }) {
  const { pen, width, height } = fit(canvas);
  if (!width) return;
  const left = 34, right = 6, top = 8, bottom = 17;
  const values = lines.flatMap((line) => line.series.points.map((point) => point[1]));
  const highest = roundUp(Math.max(minTop, ...values, band ? band[1] : 0) * 1.02);
  const x = (timeS) => width - right - ((nowS - timeS) / spanS) * (width - left - right);
  const y = (value) => top + (1 - value / highest) * (height - top - bottom);
  pen.font = '11px Inter, system-ui, sans-serif';
  pen.textBaseline = 'middle';
  if (band) {
    pen.globalAlpha = 0.16; pen.fillStyle = color('muted');
    pen.fillRect(left, y(band[1]), width - left - right, y(band[0]) - y(band[1]));
    pen.globalAlpha = 1;
  }
  for (const share of [0, 0.5, 1]) {
    pen.strokeStyle = color('line'); pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(left, y(highest * share)); pen.lineTo(width - right, y(highest * share)); pen.stroke();
    pen.fillStyle = color('muted'); pen.textAlign = 'right';
    pen.fillText((highest * share).toFixed(highest * share && decimals ? decimals : 0), left - 6, y(highest * share));
  }
  pen.textAlign = 'left'; pen.fillText(`-${spanS} s`, left, height - 6);
  pen.textAlign = 'right'; pen.fillText(unit ? `now ${unit}` : 'now', width - right, height - 6);
  pen.save();
  pen.beginPath(); pen.rect(left, 0, width - left - right + 4, height); pen.clip();
  for (const line of lines) {
    pen.strokeStyle = pen.fillStyle = color(line.color);
    pen.lineWidth = line.width || 2; pen.lineJoin = 'round';
    pen.beginPath();
    line.series.points.forEach(([timeS, value], i) => pen[i ? 'lineTo' : 'moveTo'](x(timeS), y(value)));
    pen.stroke();
    if (dots) for (const [timeS, value] of line.series.points) {
      pen.fillStyle = color(line.dotColor ? line.dotColor(value) : line.color);
      pen.beginPath(); pen.arc(x(timeS), y(value), 3, 0, 7); pen.fill();
    }
  }
  pen.restore();
}
