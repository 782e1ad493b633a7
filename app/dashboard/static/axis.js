// The horizontal axis: positions, or round times where the session has timestamps.

import { day } from "./dom.js";

const [MINUTE, HOUR, DAY] = [60, 3600, 86400];
const STEPS = [
  ...[1, 2, 5, 10, 15, 30],
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE),
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 7, 14, 28, 91, 182, 364, 728, 1820].map((days) => days * DAY),
];
const LABEL_PIXELS = 80; // at least, from one time to the next

/**
 * The ticks of round times from position `min` to `max`: their positions and labels; null without two times.
 *
 * Positions are even on the axis, so the times of a series with gaps are not.
 */
export function timeTicks(positions, times, min, max, pixels) {
  const known = positions.map((position, i) => [position, times[i]]).filter(([, time]) => time !== null);
  const seen = known.filter(([position]) => position >= min && position <= max);
  if (seen.length < 2) return null;
  const [start, end] = [seen[0][1], seen.at(-1)[1]];
  if (!(end > start) || seen.some(([, time], i) => i && time < seen[i - 1][1])) return null;
  const most = Math.max(2, Math.floor(pixels / LABEL_PIXELS));
  const step = STEPS.find((step) => (end - start) / step <= most) ?? STEPS.at(-1);
  const ticks = [];
  let before = null;
  for (let local = Math.ceil((start + offset(start)) / step) * step; ; local += step) {
    const time = local - offset(local - offset(start)); // the clock may change in between
    if (time > end) return ticks.length ? ticks : null;
    const label = words(time, step, before);
    before = time;
    if (time >= start) ticks.push({ position: place(seen, time), label });
  }
}

/** Where this time is among [position, time], between two of them if it is between their times. */
function place(known, time) {
  const after = known.findIndex(([, other]) => other >= time);
  const [position, reached] = known[after];
  if (after === 0 || reached === time) return position;
  const [earlier, left] = known[after - 1];
  return earlier + ((time - left) / (reached - left)) * (position - earlier);
}

/** The time, with its day on a second line where it is the first of that day. */
function words(seconds, step, before) {
  const time = new Date(seconds * 1000);
  if (step >= DAY) return `${day(time)}${step >= 91 * DAY ? `\n${time.getFullYear()}` : ""}`;
  const text = time.toLocaleTimeString("en-GB", step < MINUTE ? {} : { hour: "2-digit", minute: "2-digit" });
  const isNewDay = before === null || new Date(before * 1000).toDateString() !== time.toDateString();
  return isNewDay ? `${text}\n${day(time)}` : text;
}

/** Seconds that the reader's clock is ahead of UTC at this time. */
const offset = (seconds) => -60 * new Date(seconds * 1000).getTimezoneOffset();
