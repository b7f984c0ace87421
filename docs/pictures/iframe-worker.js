// The search of pages that are opened from the disk, where browsers refuse workers: the script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.onload = () => {
        frame.onload = null
        const inside = frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.onload = () => {
          this.postMessage = data => inside.dispatchEvent(new MessageEvent("message", { data }))
          this.waiting.forEach(this.postMessage)
        }
        script.src = url
        inside.document.body.append(script)
      }
      document.body.append(frame)
    }

    postMessage(data) {
      this.waiting.push(data)
    }
  }
}
