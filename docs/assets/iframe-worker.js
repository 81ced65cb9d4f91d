/* Browsers start no workers for pages that are opened as files: the search then runs in a frame. */
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true });
      const start = () => {
        document.body.append(this.frame);
        const inner = this.frame.contentWindow;
        inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
        const code = inner.document.createElement("script");
        code.src = url;
        code.onload = () => {
          this.ready = inner;
          this.waiting.splice(0).forEach((data) => this.postMessage(data));
        };
        inner.document.head.append(code);
      };
      document.body ? start() : document.addEventListener("DOMContentLoaded", start);
    }
    postMessage(data) {
      if (this.ready) this.ready.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }
    terminate() { this.frame.remove(); }
  };
}
