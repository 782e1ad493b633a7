// The microphone, as binary messages of samples to a session, and what the session answers.

import { sessionPath, socket } from "./api.js";

const PACKET = 1024; // samples: 21 ms at 48 kHz
const HEADER = 24; // bytes; docs/reference/sockets.md has the layout of the messages
const S16 = 4;
const RATE = 8;
const ONE = 32_767;

export class Microphone {
  /**
   * Opens socket and microphone.
   *
   * `heard` gets each packet, its rate, its position and the size of the loudest sample that there could be;
   * `answered` gets of each answer the position, the rate, the events and its delay in milliseconds.
   */
  static async open(session, { heard, answered }) {
    const microphone = new Microphone();
    Object.assign(microphone, { heard, answered });
    microphone.sent = []; // when each packet that has no answer yet was sent
    microphone.error = null;
    microphone.position = 0;
    microphone.packet = new Int16Array(PACKET);
    microphone.filled = 0;
    try {
      await microphone.#connect(session);
      await microphone.#listen();
    } catch (error) {
      microphone.close();
      throw error;
    }
    return microphone;
  }

  close() {
    if (this.line) {
      this.line.onclose = null;
      this.line.close();
    }
    for (const track of this.media?.getTracks() ?? []) track.stop();
    this.audio?.close();
  }

  async #connect(session) {
    this.line = socket(sessionPath(session, "/stream"));
    this.line.binaryType = "arraybuffer";
    await new Promise((resolve, reject) => {
      this.line.onmessage = resolve; // the first message has the position of the session, which is new
      this.line.onclose = () => reject(new Error("the server refused the socket"));
    });
    this.line.onmessage = ({ data }) => this.#receive(data);
    this.line.onclose = () => (this.error = "the connection was lost");
  }

  async #listen() {
    const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.media = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    this.audio = new AudioContext();
    await this.audio.audioWorklet.addModule("dashboard/worklet.js");
    const samples = new AudioWorkletNode(this.audio, "samples", { numberOfOutputs: 0 });
    samples.port.onmessage = ({ data }) => this.#take(data);
    this.audio.createMediaStreamSource(this.media).connect(samples);
    await this.audio.resume();
  }

  #take(samples) {
    for (const sample of samples) {
      this.packet[this.filled++] = Math.max(-1, Math.min(1, sample)) * ONE;
      if (this.filled === PACKET) this.#send();
    }
  }

  #send() {
    const message = new ArrayBuffer(HEADER + 2 * PACKET);
    const view = new DataView(message);
    view.setUint8(1, S16 | RATE);
    view.setUint16(2, 1, true);
    view.setUint32(4, this.audio.sampleRate, true);
    view.setBigInt64(8, BigInt(this.position), true);
    this.packet.forEach((sample, i) => view.setInt16(HEADER + 2 * i, sample, true));
    this.heard(this.packet, this.audio.sampleRate, this.position, ONE);
    this.position += PACKET;
    this.filled = 0;
    if (this.line.readyState !== WebSocket.OPEN) return;
    this.sent.push(performance.now());
    this.line.send(message);
  }

  #receive(data) {
    if (typeof data === "string") {
      this.error ??= JSON.parse(data).detail;
      return;
    }
    const view = new DataView(data);
    const position = Number(view.getBigInt64(8, true));
    const events = [];
    const covers = HEADER + 4 * view.getUint16(2, true) * view.getUint32(4, true);
    for (let at = covers + 16; at < data.byteLength; at += 16)
      events.push({ event: view.getBigInt64(at, true) ? "speech_start" : "speech_end", sample: Number(view.getBigInt64(at + 8, true)) });
    const delay = performance.now() - this.sent.shift(); // answers come in the order of their packets
    this.answered({ position, rate: this.audio.sampleRate, events, delay });
  }
}
