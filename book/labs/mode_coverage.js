// A small GAN that is trained in the page on modes in the plane, with packing, a diversity term and
// a sharp discriminator as switches, and what the chapter counts beside it.
genbookLab.define("mode_coverage", (lab) => {
  const { uniform, normal, colour, calm, element } = genbookLab;
  const { play, update, forward, sigmoid } = genbookLab.game;
  const BATCH = 64; // inputs of D an update
  const STD = 0.05; // of every mode
  const JUDGED = 2500; // samples that are counted: VEEGAN, PacGAN
  const tally = (samples, modes) => genbookLab.game.tally(samples, modes, STD);

  // --- what the reader has in hand ---

  const turn = (k) => (2 * Math.PI * k) / 8;
  const DATA = {
    ring: { reach: 2.6, means: [...Array(8).keys()].map((k) => [2 * Math.cos(turn(k)), 2 * Math.sin(turn(k))]) },
    grid: { reach: 5, means: [...Array(25).keys()].map((k) => [2 * Math.floor(k / 5) - 4, 2 * (k % 5) - 4]) },
    yours: { reach: 2.6, means: [[0, 0]] },
  };
  let { reach, means } = DATA.ring;
  let [seed, packed, sharp, weight, shaded] = [1, 1, false, 0, false];
  let game, u, noise, x, fixed, counted, history, every, losses, cursor;
  const gaussians = (n, g) => new Float64Array(n).map(g);

  function batch() {
    const points = gaussians(2 * BATCH * packed, () => STD * noise());
    for (let i = 0; i < points.length; i += 2) {
      const [a, b] = means[Math.floor(u() * means.length)];
      points[i] += a;
      points[i + 1] += b;
    }
    return points;
  }

  function restart() {
    run.stop();
    game = play(packed, sharp, uniform(seed));
    [u, noise] = [uniform(seed + 1000), normal(seed + 2000)];
    fixed = gaussians(2 * JUDGED, normal(3000));
    [history, every, losses] = [[], 25, [NaN, NaN]];
    x = batch();
    count();
    show(true);
  }

  function count() {
    counted = tally(forward(game.make, fixed).at(-1), means);
    if (history.length === 200) {
      history = history.filter((_, i) => i % 2);
      every *= 2;
    }
    if (game.make.count) history.push({ ...counted, at: game.make.count, judge: losses[0], maker: losses[1] });
  }

  function step() {
    x = batch();
    losses = update(game, x, gaussians(2 * BATCH * packed, noise), weight);
    if (game.make.count % every === 0) count();
  }

  // Steps for some time before the next picture, which may cost as much as several of them.
  function burst() {
    const until = performance.now() + (calm() ? 200 : 40);
    do step(); while (performance.now() < until);
    show(false);
  }

  let told = 0;
  function show(now) {
    plane.redraw();
    trace.redraw();
    if (!now && performance.now() < told + 3000) return; // a reader of the screen has to keep up
    told = performance.now();
    const { modes, good, quality, kl } = counted;
    const even = Math.min((means.length - 1) / (2 * Math.max(good, 1)), Math.log(means.length));
    const said = game.make.count ? `; losses ${losses.map((v) => v.toFixed(2)).join(" (D) and ")} (G)` : "";
    say(
      `${game.make.count} updates: ${modes} of ${means.length} modes, ${quality.toFixed(1)} % of high quality, ` +
        `divergence ${kl.toFixed(2)} nats (of an even model with as many good samples: about ${even.toFixed(2)})${said}.`,
    );
  }

  // --- pictures ---

  const SIDE = 320;
  const toPlane = ([a, b]) => [((a + reach) / (2 * reach)) * SIDE, ((reach - b) / (2 * reach)) * SIDE];
  const fromPlane = ([a, b]) => [(a / SIDE) * 2 * reach - reach, reach - (b / SIDE) * 2 * reach];

  function dots(context, points, style, size) {
    context.fillStyle = style;
    for (let i = 0; i < points.length; i += 2) {
      const [a, b] = toPlane([points[i], points[i + 1]]);
      context.fillRect(a - size / 2, b - size / 2, size, size);
    }
  }

  // D at every place; of a packed one, D of m samples that all lie there.
  function shade(context) {
    const cells = 48;
    const at = new Float64Array(2 * packed * cells * cells);
    for (let i = 0; i < at.length; i += 2) {
      const cell = Math.floor(i / (2 * packed));
      const middle = [(cell % cells) + 0.5, Math.floor(cell / cells) + 0.5];
      at.set(fromPlane(middle.map((v) => (v / cells) * SIDE)), i);
    }
    const sheet = element("canvas", { width: cells, height: cells });
    const image = new ImageData(cells, cells);
    const [data, made] = ["first", "second"].map((name) => colour(name).match(/\w\w/g).map((v) => parseInt(v, 16)));
    forward(game.tell, at).at(-1).forEach((logit, i) => {
      const away = 2 * sigmoid(logit) - 1;
      image.data.set([...(away > 0 ? data : made), 170 * Math.abs(away)], 4 * i);
    });
    sheet.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(sheet, 0, 0, SIDE, SIDE);
  }

  function drawPlane(context) {
    if (shaded) shade(context);
    dots(context, x, colour("line"), 2);
    dots(context, forward(game.make, fixed.subarray(0, 1000)).at(-1), colour("fourth"), 2.5);
    means.forEach((mode, k) => {
      const captured = counted.counts[k] > 0;
      context.strokeStyle = colour(captured ? "third" : "ink");
      context.lineWidth = captured ? 2.5 : 1.5;
      context.setLineDash(captured ? [] : [3, 3]);
      context.beginPath();
      context.arc(...toPlane(mode), Math.max((3 * STD * SIDE) / (2 * reach), 6), 0, 2 * Math.PI);
      context.stroke();
    });
    context.setLineDash([]);
    context.strokeStyle = colour(cursor ? "ink" : "grid");
    context.strokeRect(0.5, 0.5, SIDE - 1, SIDE - 1);
    if (!cursor) return;
    const [a, b] = toPlane(cursor);
    context.beginPath();
    for (const [dx, dy] of [[9, 0], [0, 9]]) {
      context.moveTo(a - dx, b - dy);
      context.lineTo(a + dx, b + dy);
    }
    context.stroke();
  }

  // One panel of the trace: `lines` are [what of the history, colour, a level to be dashed].
  function panel(context, left, top, title, low, high, lines) {
    const [width, height] = [150, 112];
    const last = history.at(-1)?.at ?? 1;
    const place = (at, v) => [
      left + (at / last) * width,
      top + 22 + (1 - (Math.min(high, Math.max(low, v)) - low) / (high - low)) * height,
    ];
    context.font = "12px sans-serif";
    context.fillStyle = colour("ink");
    context.fillText(title, left, top + 14);
    context.strokeStyle = colour("grid");
    context.lineWidth = 1;
    context.strokeRect(left, top + 22, width, height);
    for (const [what, name, level] of lines) {
      context.strokeStyle = colour(name);
      context.setLineDash([2, 4]);
      context.beginPath();
      context.moveTo(...place(0, level));
      context.lineTo(...place(last, level));
      context.stroke();
      context.setLineDash([]);
      context.lineWidth = 1.5;
      context.beginPath();
      for (const point of history) context.lineTo(...place(point.at, point[what]));
      context.stroke();
    }
  }

  // Dashed: all modes; a perfect sampler; even; both players at their balance, log 4 and log 2.
  function drawTrace(context) {
    const K = means.length;
    const { modes, quality, kl } = counted;
    const [judge, maker] = losses.map((v) => (Number.isNaN(v) ? "–" : v.toFixed(2)));
    const lowest = Math.min(0, ...history.map((point) => point.maker));
    panel(context, 4, 4, `modes: ${modes} of ${K}`, 0, 1.04 * K, [["modes", "third", K]]);
    panel(context, 166, 4, `high quality: ${quality.toFixed(1)} %`, 0, 104, [["quality", "third", 98.89]]);
    panel(context, 4, 166, `divergence: ${kl.toFixed(2)} nats`, -0.05, Math.log(Math.max(K, 2)), [["kl", "fourth", 0]]);
    panel(context, 166, 166, `losses: D ${judge}, G ${maker}`, lowest, 4, [
      ["judge", "first", Math.log(4)], ["maker", "second", Math.log(2)],
    ]);
  }

  // --- controls ---

  const plane = lab.canvas({
    width: SIDE, height: SIDE, draw: drawPlane,
    text: "Modes, data and samples. Arrow keys move a cross, Enter puts a mode there or takes one away.",
    attributes: { tabindex: 0 },
  });
  const trace = lab.canvas({
    width: SIDE, height: 306, draw: drawTrace,
    text: "Modes, share of high quality, divergence and both losses over the updates; the line below says their last values.",
  });

  // Put a mode at a place, or take away the one that is there; the game goes on with the new data.
  function edit(to, remove) {
    const near = means.filter((mode) => Math.hypot(mode[0] - to[0], mode[1] - to[1]) < 0.08 * reach);
    if (near.length && (!remove || near.length === means.length)) return;
    means = near.length ? means.filter((mode) => !near.includes(mode)) : [...means, to];
    data.querySelector("select").value = "yours";
    count();
    show(true);
  }
  plane.addEventListener("pointerdown", (event) => edit(fromPlane(plane.place(event)), true));
  plane.addEventListener("pointermove", (event) => event.buttons & 1 && edit(fromPlane(plane.place(event)), false));
  plane.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!by && event.key !== "Enter") return;
    event.preventDefault();
    cursor ||= [0, 0];
    if (!by) edit([...cursor], true);
    else cursor = cursor.map((v, i) => Math.max(-reach, Math.min(reach, v + 0.05 * reach * by[i])));
    plane.redraw();
  });
  plane.addEventListener("blur", () => {
    cursor = null;
    plane.redraw();
  });

  const run = lab.player("Run", burst);
  const data = lab.choice("data", Object.keys(DATA), "ring", (word) => {
    ({ reach, means } = DATA[word]);
    restart();
  });
  lab.row(
    run,
    lab.button("One step", () => {
      step();
      count();
      show(true);
    }),
    lab.button("Start again with other weights", () => {
      seed += 1;
      restart();
    }),
    data,
    lab.choice("packed, m =", ["1", "2", "4"], "1", (word) => {
      packed = Number(word);
      restart();
    }),
    lab.slider({
      text: "weight of the diversity term", min: 0, max: 1, step: 0.05, value: 0,
      show: (v) => v.toFixed(2), change: (v) => (weight = v),
    }),
    lab.toggle("Sharp discriminator", false, (down) => {
      sharp = down;
      restart();
    }),
    lab.toggle("Shade by D", false, (down) => {
      shaded = down;
      plane.redraw();
    }),
  );
  lab.row(plane, trace);
  const say = lab.status();
  restart();
  Object.assign(lab.probe, { play, update, tally, burst, step, counted: () => counted, count });
});
