// Marks of alerts in a chart: a line where one was raised, and a pale band until it was over.

const SIZE = 5; // of the triangle on the line, in pixels of the page
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Draws alerts with `position` and `end`, which is null where it is not known. */
export function drawAlerts(plot, alerts) {
  if (!alerts.length) return;
  const { ctx, bbox: { left, top, width, height } } = plot;
  const at = (position) => Math.round(plot.valToPos(position, "x", true)) + 0.5;
  const size = SIZE * devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.strokeStyle = ctx.fillStyle = css("--danger");
  ctx.lineWidth = 1.5 * devicePixelRatio;
  for (const { position, end } of alerts) {
    const x = at(position);
    if (end !== null) {
      ctx.globalAlpha = 0.1;
      ctx.fillRect(x, top, at(end) - x, height);
    }
    ctx.globalAlpha = 1;
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x - size, top);
    ctx.lineTo(x + size, top);
    ctx.lineTo(x, top + 1.6 * size);
    ctx.fill();
  }
  ctx.restore();
}

/** What a tip says at this position; null if no alert was raised there. */
export function alertAt(alerts, position) {
  const found = alerts.find((alert) => alert.position === position);
  return found ? `alert: ${found.cause ?? "raised"}` : null;
}
