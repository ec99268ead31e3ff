// Two planes of codes of the fading squares, without noise and with a box of it: where no code of
// the data lies is a hole, and there the decoder was never told what to draw.
genbookLab.define("wae", (lab) => {
  const { uniform, linear, relu, tanh, sigmoid, paint, colour, dot, write, element } = genbookLab;
  const laws = { deterministic: "no noise", uniform: "a box of noise" };
  const radius = 0.1; // a hole is further than that from every code
  const count = 2000; // of codes, and of draws of the prior
  const side = 32;

  // --- the chapter's equations -----------------------------------------------------------------

  const of = (law, name) => lab.weights[`squares-${law}-0--2/${name}`];
  const layer = (law, name, x) => linear(x, of(law, `${name}.weight`), of(law, `${name}.bias`));

  // `squares`: a square in the middle with that grey, on black.
  const within = (i) => [i % side, Math.floor(i / side)].every((v) => v >= 8 && v < 24);
  const square = (grey) =>
    Float32Array.from({ length: side * side }, (_, i) => (within(i) ? grey : 0));

  // `SquareModel.code`: mean and sides of the box.  The first layer, summed over the square, needs
  // the grey alone.
  function encode(law, grey) {
    const hidden = relu(layer(law, "encoder.2", relu(layer(law, "encoder.0", [grey]))));
    const said = layer(law, "encoder.4", hidden);
    const sides = [...said.slice(2)].map((s) => Math.exp(Math.max(-20, Math.min(5, s - 2))));
    return { mean: said.slice(0, 2), sides };
  }

  // A draw of Q(z|x): uniform on the box around the mean.
  function code(law, grey, u) {
    const { mean, sides } = encode(law, grey);
    return [...mean].map((m, j) => (sides.length ? m + sides[j] * (u() - 0.5) : m));
  }

  // G(z): three layers of tanh, then the probability of ink in every pixel.
  function hidden(law, z) {
    return [0, 2, 4].reduce((h, i) => tanh(layer(law, `decoder.${i}`, h)), z);
  }
  const decode = (law, z) => sigmoid(layer(law, "decoder.6", hidden(law, z)));

  // The grey of a decoded picture: the mean over its square.  Only these pixels are worked out.
  const inner = {};
  for (const law of Object.keys(laws)) {
    const [weight, bias] = ["weight", "bias"].map((name) => of(law, `decoder.6.${name}`));
    const width = weight.shape[1];
    const pixels = [...bias.data.keys()].filter(within);
    const rows = pixels.flatMap((i) => [...weight.data.subarray(i * width, (i + 1) * width)]);
    inner[law] = [
      { shape: [pixels.length, width], data: Float32Array.from(rows) },
      { data: Float32Array.from(pixels, (i) => bias.data[i]) },
    ];
  }
  const greyOf = (law, z) =>
    sigmoid(linear(hidden(law, z), ...inner[law])).reduce((sum, v) => sum + v, 0) / 256;

  // The square that is nearest to a picture, and the root of the mean square that is between them.
  function nearest(picture) {
    const inside = picture.filter((_, i) => within(i));
    const grey = Math.min(1, Math.max(0, inside.reduce((sum, v) => sum + v, 0) / inside.length));
    const gaps = square(grey).reduce((sum, v, i) => sum + (v - picture[i]) ** 2, 0);
    return { grey, away: Math.sqrt(gaps / picture.length) };
  }

  // `far_from_codes`: the code that is nearest to z, and whether it is further than the radius.
  function closest(z, codes) {
    let [best, least] = [0, Infinity];
    codes.forEach(([a, b], i) => {
      const gap = (a - z[0]) ** 2 + (b - z[1]) ** 2;
      if (gap < least) [best, least] = [i, gap];
    });
    return { best, away: Math.sqrt(least), hole: Math.sqrt(least) > radius };
  }

  // The grey-gap: the largest distance of the distribution function of greys from the data's, in
  // points of a hundred.
  const gap = (greys) =>
    100 * [...greys].sort((a, b) => a - b)
      .reduce((most, g, i) => Math.max(most, Math.abs(g - (i + 0.5) / greys.length)), 0);

  // --- what the reader has chosen --------------------------------------------------------------

  let z = [0.5, -0.5];
  let codesShown = true;
  let seed = 1;
  let greys = []; // of the data
  let draws = []; // of the prior, uniform on [-1, 1]^2
  const models = {};

  function draw() {
    const u = uniform(seed);
    greys = Array.from({ length: count }, u);
    draws = Array.from({ length: count }, () => [2 * u() - 1, 2 * u() - 1]);
    for (const [law, model] of Object.entries(models)) {
      model.codes = greys.map((grey) => code(law, grey, u));
      model.made = []; // greys of the decoded draws
      model.hole = draws.filter((v) => closest(v, model.codes).hole).length / count;
      model.holes = cells.filter((v) => closest(v, model.codes).hole);
    }
  }

  // --- pictures ----------------------------------------------------------------------------------

  const pad = 312;
  const reach = 1.3;
  const tiles = 39;
  const toPad = (v) => ((v + reach) / (2 * reach)) * pad;
  const middle = (k) => ((k + 0.5) / tiles) * 2 * reach - reach;
  const places = Array.from({ length: tiles ** 2 }, (_, i) =>
    [middle(i % tiles), -middle(Math.floor(i / tiles))]);
  const cells = places.filter((v) => v.every((part) => Math.abs(part) < 1)); // inside the prior

  function drawPlane(context, model) {
    paint(context, model.sheet, tiles, 0, 0, pad);
    context.fillStyle = "#ff9f4d";
    for (const [a, b] of model.holes) dot(context, toPad(a), pad - toPad(b), 1.3);
    context.fillStyle = "#56b4e9";
    if (codesShown) for (const [a, b] of model.codes) dot(context, toPad(a), pad - toPad(b), 1.3);
    context.strokeStyle = "#ff9f4d";
    context.lineWidth = 2;
    context.strokeRect(toPad(-1), toPad(-1), toPad(1) - toPad(-1), toPad(1) - toPad(-1));
    for (const [style, width] of [["#000000", 6], ["#ffffff", 2.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      dot(context, toPad(z[0]), pad - toPad(z[1]), 8, false);
    }
  }

  // The distribution functions of decoded greys, and the data's, the diagonal.
  const graph = { width: 312, height: 200, left: 34, right: 304, top: 8, bottom: 164 };
  const graphX = (v) => graph.left + v * (graph.right - graph.left);
  const graphY = (v) => graph.bottom - v * (graph.bottom - graph.top);
  const styles = { data: "line", deterministic: "second", uniform: "first" };
  function curve(context, points, style) {
    context.strokeStyle = colour(style);
    context.beginPath();
    for (const [x, y] of points) context.lineTo(graphX(x), graphY(y));
    context.stroke();
  }
  function drawGraph(context) {
    context.clearRect(0, 0, graph.width, graph.height);
    context.lineWidth = 1;
    context.strokeStyle = colour("line");
    context.strokeRect(graphX(0), graphY(1), graphX(1) - graphX(0), graphY(0) - graphY(1));
    curve(context, [[0, 0], [1, 1]], styles.data);
    context.lineWidth = 2;
    for (const [law, { made }] of Object.entries(models)) {
      const points = [...made].sort((a, b) => a - b).map((v, i) => [v, (i + 0.5) / made.length]);
      curve(context, points, styles[law]);
    }
    Object.entries({ data: "data", ...laws }).forEach(([name, text], i) => {
      curve(context, [[0.6, 0.3 - 0.1 * i], [0.66, 0.3 - 0.1 * i]], styles[name]);
      write(context, text, graphX(0.68), graphY(0.3 - 0.1 * i), "left");
    });
    for (const v of [0, 0.5, 1]) {
      write(context, v, graphX(v), graph.bottom + 13);
      write(context, v, graph.left - 6, graphY(v), "right");
    }
    write(context, "grey level", graphX(0.5), graph.bottom + 29);
  }

  function report() {
    const words = Object.entries(models).map(([law, model]) => {
      const { best, away, hole } = model.closest;
      return `With ${laws[law]}, ${hole ? "a hole: the" : "the"} nearest code is ` +
        `${away.toFixed(2)} away and has grey ${greys[best].toFixed(2)}, decoded is grey ` +
        `${model.square.grey.toFixed(2)}, ${model.square.away.toFixed(3)} from a true square.`;
    });
    say(`Code (${z.map((v) => v.toFixed(2)).join(", ")}). ${words.join(" ")}`);
  }

  function renew() {
    for (const [law, model] of Object.entries(models)) {
      model.picture = decode(law, z);
      model.square = nearest(model.picture);
      model.closest = closest(z, model.codes);
      const apart = model.made.length ? `${gap(model.made).toFixed(1)} points` : "not decoded yet";
      model.said.textContent =
        `Hole: ${(100 * model.hole).toFixed(0)} % of the prior. Gap of sampled greys: ${apart}.`;
    }
    lab.redraw();
    report();
  }

  const move = (to) => {
    z = to.map((v) => Math.max(-reach, Math.min(reach, v)));
    renew();
  };

  function column(law, text) {
    const model = { codes: [], made: [], said: element("span", {}) };
    model.sheet = Float32Array.from(places, (v) => greyOf(law, v));
    const plane = lab.canvas({
      width: pad, height: pad, draw: (context) => drawPlane(context, model),
      text: `The plane of codes, ${text}. Arrow keys move the code.`, attributes: { tabindex: 0 },
    });
    lab.steer(plane, {
      point: ([x, y]) => move([x, pad - y].map((v) => (v / pad) * 2 * reach - reach)),
      arrow: (step) => move(z.map((v, j) => v + 0.05 * step[j])),
    });
    const shown = (name, values) => element(
      "div", { class: "gb-lab-column", style: "width: 88px" },
      lab.canvas({
        width: 88, height: 88, text: `${name}, ${text}`,
        draw: (context) => model.picture && paint(context, values(), side, 0, 0, 88),
      }),
      element("small", {}, name),
    );
    model.box = element(
      "div", { class: "gb-lab-column", style: `max-width: ${pad}px` },
      element("strong", {}, text), plane, model.said,
      element(
        "div", { class: "gb-lab-row" },
        shown("decoded", () => model.picture),
        shown("nearest square", () => square(model.square.grey)),
        shown("square of the nearest code", () => square(greys[model.closest.best])),
      ),
    );
    models[law] = model;
  }

  // --- controls ----------------------------------------------------------------------------------

  for (const [law, text] of Object.entries(laws)) column(law, text);
  lab.row(...Object.values(models).map((model) => model.box));
  const functions = lab.canvas({
    width: graph.width, height: graph.height, draw: drawGraph,
    text: "Distribution functions of the greys of decoded draws of the prior, and of the data",
  });
  const player = lab.player("Decode draws of the prior", () => {
    for (const [law, model] of Object.entries(models)) {
      if (model.made.length === count) model.made = [];
      const from = model.made.length;
      model.made.push(...draws.slice(from, from + 100).map((v) => greyOf(law, v)));
    }
    renew();
    return models.uniform.made.length < count;
  });
  const again = lab.button(`Draw data and prior again (seed ${seed})`, () => {
    seed += 1;
    again.textContent = `Draw data and prior again (seed ${seed})`;
    draw();
    renew();
  });
  const codes = lab.toggle("Codes", codesShown, (shown) => {
    codesShown = shown;
    lab.redraw();
  });
  lab.row(functions, element("div", { class: "gb-lab-column" }, player, again, codes));
  const say = lab.status();
  draw();
  renew();
  Object.assign(lab.probe, { encode, decode, greyOf, nearest, closest, models, draws: () => draws });
});
