/* Browsers start no workers for pages that are opened as files: the search then runs in a frame. */
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      window.addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        this.onmessage?.(copy);
      });
      const start = () => {
        document.body.append(this.frame);
        const inner = this.frame.contentWindow;
        inner.document.open();
        inner.document.write("<!doctype html><title>search</title><script>" +
          "postMessage = (data) => parent.dispatchEvent(new MessageEvent('message', { data, source: window }));" +
          "<\/script><script src=\"" + url + "\" onload=\"dispatchEvent(new Event('ready'))\"><\/script>");
        inner.document.close();
        inner.addEventListener("ready", () => {
          this.ready = inner;
          for (const data of this.waiting.splice(0)) this.postMessage(data);
        });
      };
      document.body ? start() : document.addEventListener("DOMContentLoaded", start);
    }
    postMessage(data) {
      if (!this.ready) { this.waiting.push(data); return; }
      this.ready.dispatchEvent(new MessageEvent("message", { data }));
    }
    terminate() { this.frame.remove(); }
  };
}
