// What is under the pointer in a chart: its values with units, its position and its time.

import { clock, count, create, number } from "./dom.js";

const GAP = 14; // pixels between the pointer and the tip

/**
 * Adds a tip to a chart; returns uPlot's hook.
 *
 * `rows(i, plot)` are the [name, value] of the point with this index; `time(i)` is its time or null;
 * `note(position)` is a sentence or null.
 * `frameSeconds` is how long a position takes where it is a frame of samples.
 */
export function tipHook(host, { rows, time, note, frameSeconds }) {
  const tip = create("div", { className: "tip", hidden: true });
  host.append(tip);
  host.addEventListener("mouseleave", () => (tip.hidden = true));
  return (plot) => {
    const { idx: i, left, top } = plot.cursor;
    const lines = i === null || i === undefined || left < 0 || !host.matches(":hover") ? [] : rows(i, plot);
    tip.hidden = !lines.length;
    if (tip.hidden) return;
    const seconds = time(i);
    const position = plot.data[0][i];
    const head = create("b", {}, `${frameSeconds ? "frame" : "position"} ${count(position)}`);
    const end = frameSeconds ? `until ${number(position * frameSeconds)} s` : seconds === null ? null : clock(seconds);
    const when = end === null ? [] : [create("span", { className: "when" }, end)];
    const said = note(position);
    const sentence = said === null ? [] : [create("span", { className: "note" }, said)];
    const pair = ([name, value]) => create("div", {}, create("dt", {}, name), create("dd", {}, value));
    tip.style.left = "0"; // so that its width is its own
    tip.replaceChildren(head, ...when, create("dl", {}, ...lines.map(pair)), ...sentence);
    const x = plot.over.offsetLeft + left;
    const beside = x > host.clientWidth / 2 ? x - GAP - tip.offsetWidth : x + GAP;
    tip.style.left = `${Math.max(0, Math.min(beside, host.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, Math.min(plot.over.offsetTop + top, host.clientHeight - tip.clientHeight))}px`;
  };
}
