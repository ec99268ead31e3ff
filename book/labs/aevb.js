// The plane of codes of a VAE with two latent variables: point at a code and see its picture, or
// draw a digit and see its code.
genbookLab.define("aevb", (lab) => {
  const { linear, tanh, sigmoid, colour, paint, element } = genbookLab;
  const of = (name) => lab.weights[`two/${name}`];
  const side = Math.sqrt(of("decoder.out.bias").shape[0]);
  const reach = 3; // standard deviations of the prior that the pad shows
  const pad = 300;

  // p(x|z) of appendix C.1: the probability of ink in every pixel.
  function decode(z) {
    const hidden = tanh(linear(z, of("decoder.hidden.weight"), of("decoder.hidden.bias")));
    return sigmoid(linear(hidden, of("decoder.out.weight"), of("decoder.out.bias")));
  }

  // q(z|x) of appendix C.2: mean and logarithm of the variance.
  function encode(x) {
    const hidden = tanh(linear(x, of("encoder.hidden.weight"), of("encoder.hidden.bias")));
    const out = linear(hidden, of("encoder.out.weight"), of("encoder.out.bias"));
    return { mu: out.slice(0, 2), logVar: out.slice(2) };
  }

  let z = [0, 0];
  let drawn = null; // q(z|x) of the reader's digit
  const ink = new Float32Array(side * side);

  const toPad = (v) => ((v + reach) / (2 * reach)) * pad;
  const place = ([a, b]) => [toPad(a), pad - toPad(b)];

  // The picture of every code on a coarse grid, painted once.
  const tiles = 13;
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = tiles * side;
  for (let i = 0; i < tiles; i += 1) {
    for (let j = 0; j < tiles; j += 1) {
      const at = (k) => ((k + 0.5) / tiles) * 2 * reach - reach;
      paint(sheet.getContext("2d"), decode([at(j), -at(i)]), side, j * side, i * side, side);
    }
  }

  function drawPad(context) {
    context.drawImage(sheet, 0, 0, pad, pad);
    if (drawn) {
      const [x, y] = place(drawn.mu);
      const radii = [...drawn.logVar].map((v) => (Math.exp(v / 2) / (2 * reach)) * pad);
      context.strokeStyle = "#ff9f4d";
      context.lineWidth = 2;
      context.beginPath();
      context.ellipse(x, y, Math.max(radii[0], 2), Math.max(radii[1], 2), 0, 0, 2 * Math.PI);
      context.stroke();
    }
    const [x, y] = place(z);
    context.lineWidth = 4;
    for (const style of ["#000000", "#56b4e9"]) {
      context.strokeStyle = style;
      context.beginPath();
      context.arc(x, y, 7, 0, 2 * Math.PI);
      context.stroke();
      context.lineWidth = 2;
    }
  }

  function move(to) {
    z = to.map((v) => Math.max(-reach, Math.min(reach, v)));
    codes.redraw();
    made.redraw();
    say(`Code (${z.map((v) => v.toFixed(2)).join(", ")}), decoded beside the plane.`);
  }

  const codes = lab.canvas({
    width: pad, height: pad, draw: drawPad,
    text: "The plane of codes, each with the picture that it decodes to. Arrow keys move the code.",
    attributes: { tabindex: 0 },
  });
  const point = (event) => {
    const [x, y] = codes.place(event);
    move([(x / pad) * 2 * reach - reach, reach - (y / pad) * 2 * reach]);
  };
  codes.addEventListener("pointermove", point);
  codes.addEventListener("pointerdown", point);
  codes.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in step)) return;
    event.preventDefault();
    move(z.map((v, i) => v + 0.1 * step[event.key][i]));
  });

  const made = lab.canvas({
    width: 140, height: 140, text: "The picture of the code",
    draw: (context) => paint(context, decode(z), side, 0, 0, 140),
  });

  // A pen as wide as the digits of MNIST: a soft disc of about two pixels.
  const board = lab.canvas({
    width: 140, height: 140, text: "Draw a digit here with the pointer",
    draw: (context) => {
      paint(context, ink, side, 0, 0, 140);
      context.strokeStyle = colour("line");
      context.strokeRect(0.5, 0.5, 139, 139);
    },
  });
  board.style.touchAction = "none";
  let last = null;
  const stroke = (event) => {
    if (!(event.buttons & 1)) return;
    const to = board.place(event).map((v) => (v / 140) * side);
    const from = last || to;
    for (let s = 0; s <= 8; s += 1) {
      const [x, y] = [0, 1].map((k) => from[k] + ((to[k] - from[k]) * s) / 8);
      for (let i = 0; i < side * side; i += 1) {
        const gap = Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y);
        ink[i] = Math.max(ink[i], Math.min(1, Math.max(0, 1.9 - gap)));
      }
    }
    last = to;
    read();
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  board.addEventListener("pointermove", stroke);

  function read() {
    drawn = encode(ink);
    move([...drawn.mu]);
    board.redraw();
    const spread = [...drawn.logVar].map((v) => Math.exp(v / 2).toFixed(2));
    say(
      `Your digit has the code (${[...drawn.mu].map((v) => v.toFixed(2)).join(", ")}), give or ` +
        `take (${spread.join(", ")}): the orange ellipse.`,
    );
  }
  const clear = lab.button("Clear the drawing", () => {
    ink.fill(0);
    drawn = null;
    board.redraw();
    codes.redraw();
  });
  const example = lab.button("Take the decoded picture as your digit", () => {
    ink.set(decode(z));
    read();
  });

  const named = (text, canvas) =>
    element("div", { class: "gb-lab-column" }, element("span", {}, text), canvas);
  lab.row(codes, named("decoded", made), named("your digit", board));
  lab.row(example, clear);
  const say = lab.status();
  Object.assign(lab.probe, { decode, encode });
});
