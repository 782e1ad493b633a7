// Runs beside the page, on the thread of the audio: passes the samples of the first channel on.

registerProcessor(
  "samples",
  class extends AudioWorkletProcessor {
    process([[channel]]) {
      if (channel) this.port.postMessage(channel.slice());
      return true;
    }
  },
);
