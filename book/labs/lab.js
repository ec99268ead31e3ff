// What the labs of the pages share: the start button, weights, controls, a canvas that follows the
// theme, seeded noise, and the few layers that networks are made of.
//
// A lab is a function `genbookLab.define("name", async (lab) => {...})` in a file of its own. It
// fills `lab.room` when the reader starts it, and puts what tests ask for into `lab.probe`.
window.genbookLab = (() => {
  const labs = {};
  const parcels = {};

  // --- numbers ---------------------------------------------------------------------------------

  // Uniform in (0, 1) from 32 bits of state (mulberry32), so that a lab can be run again.
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
  }

  // Standard normal draws by Box and Muller.
  function normal(seed) {
    const u = uniform(seed);
    let kept = null;
    return () => {
      if (kept !== null) {
        const value = kept;
        kept = null;
        return value;
      }
      const radius = Math.sqrt(-2 * Math.log(u()));
      const angle = 2 * Math.PI * u();
      kept = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
  }

  // W x + b of one vector: W [out, in] row by row, as torch.nn.Linear keeps it.  Two sums for each
  // row, because a sum waits for itself.
  function linear(x, weight, bias) {
    const [rows, columns] = weight.shape;
    const y = new Float32Array(rows);
    for (let i = 0; i < rows; i += 1) {
      const at = i * columns;
      let even = bias ? bias.data[i] : 0;
      let odd = 0;
      let j = 0;
      for (; j + 1 < columns; j += 2) {
        even += weight.data[at + j] * x[j];
        odd += weight.data[at + j + 1] * x[j + 1];
      }
      if (j < columns) even += weight.data[at + j] * x[j];
      y[i] = even + odd;
    }
    return y;
  }

  const tanh = (x) => x.map(Math.tanh);
  const relu = (x) => x.map((v) => Math.max(v, 0));
  const sigmoid = (x) => x.map((v) => 1 / (1 + Math.exp(-v)));

  // The 16 bits of a half-precision number as a number.
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  // A parcel of weights -> {tensor name: {shape, data}}.
  function unpack(parcel) {
    const text = atob(parcel.base64);
    const tensors = {};
    let at = 0;
    for (const [name, shape] of Object.entries(parcel.tensors)) {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      for (let i = 0; i < data.length; i += 1, at += 2) {
        data[i] = half(text.charCodeAt(at) | (text.charCodeAt(at + 1) << 8));
      }
      tensors[name] = { shape, data };
    }
    return tensors;
  }

  // Weights come as a script, because a page opened from disk may not read other files.
  function load(address) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = resolve;
      script.onerror = () => reject(new Error("the weights could not be read"));
      document.head.append(script);
    });
  }

  // --- the page --------------------------------------------------------------------------------

  function element(name, attributes = {}, ...inside) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...inside);
    return made;
  }

  // A colour of the theme by name: ink, ground, line, first to sixth.
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--gb-lab-${name}`).trim();
  }

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  class Lab {
    constructor(box) {
      this.box = box;
      this.room = box.querySelector(".gb-lab-room");
      this.probe = {};
      this.weights = {};
      this.redraws = [];
      this.numbered = 0;
      new MutationObserver(() => this.redraw()).observe(document.documentElement, {
        attributeFilter: ["data-theme"],
      });
    }

    redraw() {
      for (const draw of this.redraws) draw();
    }

    // A row of controls or pictures.
    row(...inside) {
      const made = element("div", { class: "gb-lab-row" }, ...inside);
      this.room.append(made);
      return made;
    }

    button(text, press, attributes = {}) {
      return element("button", { type: "button", onclick: press, ...attributes }, text);
    }

    // A button that is down or up; `change` is told which.
    toggle(text, down, change) {
      const made = this.button(text, () => {
        const now = made.getAttribute("aria-pressed") !== "true";
        made.setAttribute("aria-pressed", now);
        change(now);
      }, { "aria-pressed": String(down) });
      return made;
    }

    // One of several words.
    choice(text, words, chosen, change) {
      const select = element("select", { onchange: () => change(select.value) });
      for (const word of words) {
        select.append(element("option", { value: word, selected: word === chosen }, word));
      }
      return element("label", { class: "gb-lab-choice" }, `${text} `, select);
    }

    // A slider with its value beside it; `set` moves it from the program.
    slider({ text, min, max, step, value, show = String, change }) {
      const said = element("output", {}, show(value));
      const input = element("input", {
        type: "range", min, max, step, value, "aria-valuetext": show(value),
        oninput: () => update(),
      });
      function update() {
        const now = Number(input.value);
        said.textContent = show(now);
        input.setAttribute("aria-valuetext", show(now));
        change(now);
      }
      const label = element("label", { class: "gb-lab-slider" }, `${text} `, input, " ", said);
      label.set = (now) => {
        input.value = now;
        update();
      };
      return label;
    }

    // A picture of width x height units that is drawn again when theme or size change.
    // `draw(context)` works in these units; `text` says what is seen.
    canvas({ width, height, text, draw, attributes = {} }) {
      const made = element("canvas", { role: "img", "aria-label": text, ...attributes });
      made.style.aspectRatio = `${width} / ${height}`;
      made.style.maxWidth = `${width}px`;
      const redraw = () => {
        const scale = Math.max(1, window.devicePixelRatio || 1);
        made.width = Math.round(width * scale);
        made.height = Math.round(height * scale);
        const context = made.getContext("2d");
        context.scale(scale, scale);
        draw(context);
      };
      this.redraws.push(redraw);
      made.redraw = redraw;
      // Where a pointer event lies, in units of the picture.
      made.place = (event) => {
        const box = made.getBoundingClientRect();
        return [
          ((event.clientX - box.left) / box.width) * width,
          ((event.clientY - box.top) / box.height) * height,
        ];
      };
      requestAnimationFrame(redraw);
      return made;
    }

    // What a pointer that is held down and the arrow keys do on a picture: `point` is given the
    // place in units of the picture, `arrow` one step right and up, and both the event.
    steer(canvas, { point, arrow }) {
      const held = (event) => {
        if (event.type === "pointerdown") canvas.setPointerCapture(event.pointerId);
        if (event.buttons & 1) point(canvas.place(event), event);
      };
      canvas.addEventListener("pointerdown", held);
      canvas.addEventListener("pointermove", held);
      canvas.addEventListener("keydown", (event) => {
        if (!(event.key in ARROWS)) return;
        event.preventDefault();
        arrow(ARROWS[event.key], event);
      });
    }

    // A line that a screen reader says when it changes.
    status() {
      const made = element("p", { class: "gb-lab-status", role: "status" });
      this.room.append(made);
      return (text) => {
        made.textContent = text;
      };
    }

    // `step()` again and again until it gives false or `stop()` is called; a button that starts and
    // stops it. Who asked for less motion still decides by pressing it: nothing moves by itself.
    player(text, step) {
      let running = false;
      const made = this.button(text, () => (running ? made.stop() : made.play()));
      const turn = () => {
        if (!running) return;
        if (step() === false) made.stop();
        else if (calm()) setTimeout(turn, 400);
        else requestAnimationFrame(turn);
      };
      made.play = () => {
        running = true;
        this.room.setAttribute("aria-busy", true); // a screen reader waits for the end
        made.textContent = "Stop";
        requestAnimationFrame(turn);
      };
      made.stop = () => {
        running = false;
        this.room.setAttribute("aria-busy", false);
        made.textContent = text;
      };
      return made;
    }
  }

  // Grey values in [0, 1], row by row, as a picture of `side` times `side` dots at (x, y).
  function paint(context, values, side, x, y, size) {
    const small = document.createElement("canvas");
    small.width = side;
    small.height = side;
    const image = new ImageData(side, side);
    for (let i = 0; i < side * side; i += 1) {
      image.data.fill(Math.round(255 * Math.min(1, Math.max(0, values[i]))), 4 * i, 4 * i + 3);
      image.data[4 * i + 3] = 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, x, y, size, size);
  }

  // Words and a dot in a picture.
  function write(context, text, x, y, align = "center") {
    context.fillStyle = colour("ink");
    context.font = "12px sans-serif";
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillText(text, x, y);
  }

  function dot(context, x, y, radius, filled = true) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    if (filled) context.fill();
    else context.stroke();
  }

  async function start(box, button) {
    button.disabled = true;
    const lab = new Lab(box);
    const name = box.dataset.lab;
    try {
      if (box.dataset.weights) {
        button.textContent = "Loading";
        if (!parcels[name]) await load(box.dataset.weights);
        lab.weights = unpack(parcels[name]);
      }
      await labs[name](lab);
      api.running[name] = lab;
      button.remove();
      lab.room.querySelector("button, input, select, canvas[tabindex]")?.focus();
    } catch (error) {
      button.textContent = `This lab cannot start: ${error.message}`;
      throw error;
    }
  }

  // Every lab on the page gets its button once its own script is there.
  function define(name, fill) {
    labs[name] = fill;
    for (const box of document.querySelectorAll(`.gb-lab[data-lab="${name}"]`)) {
      const button = element("button", { type: "button", class: "gb-lab-start" }, "Start the lab");
      button.addEventListener("click", () => start(box, button));
      box.querySelector(".gb-lab-room").append(button);
    }
  }

  const api = {
    define, uniform, normal, linear, tanh, relu, sigmoid, element, colour, calm, paint, write, dot,
    take: (name, parcel) => {
      parcels[name] = parcel;
    },
    running: {},
  };
  return api;
})();
