// What the conditional generator hears: four rows of ten pictures, and in each row one thing
// changes: the label, z on a line, z drawn again, or the units that are dropped.
genbookLab.define("cgan", (lab) => {
  const { uniform, linear, relu, sigmoid, paint, colour, element } = genbookLab;
  const of = (name) => lab.weights[name];
  const side = Math.sqrt(of("out.bias").shape[0]);
  // A sum too large for 16 bits, and what rounding took away from it.
  const whole = (name) => of(name).data.map((v, i) => v + of(`${name}.rest`).data[i]);
  const heard = { label: whole("label"), dropped: whole("dropped") };
  const [drops, labels, joint] = of("dropped").shape;
  const units = of("z.bias").shape[0];
  const noise = of("z.weight").shape[1];
  const steps = 10;

  // --- the chapter's equations -----------------------------------------------------------------

  // Dropout: each number is 0 with probability 1/2, else doubled, so that the mean stays.
  const halved = (h, kept) => (kept ? h.map((v, i) => 2 * v * kept[i]) : h);

  // G(z|y), section 4.1.  What y adds to the joint layer was worked out beforehand for each label,
  // with all units of its layer and with half of them dropped in each of `drops` ways.
  function generate(z, y, drop = null) {
    const [from, at] = drop ? [heard.dropped, drop.way * labels + y] : [heard.label, y];
    const ofZ = halved(relu(linear(z, of("z.weight"), of("z.bias"))), drop?.z);
    const ofY = { data: from.subarray(at * joint, (at + 1) * joint) };
    const h = halved(relu(linear(ofZ, of("joint.weight"), ofY)), drop?.joint);
    return sigmoid(linear(h, of("out.weight"), of("out.bias")));
  }

  // z uniform in [0, 1]^100, section 4.1, and the units that are kept.
  const drawZ = (u) => Float32Array.from({ length: noise }, u);
  const keep = (u, n) => Uint8Array.from({ length: n }, () => (u() < 0.5 ? 1 : 0));
  const drawDrop = (u) => ({
    way: Math.floor(u() * drops), z: keep(u, units), joint: keep(u, joint),
  });

  // The chapter's measure of variety: a pixel's standard deviation, mean over the pixels.
  function spread(pictures) {
    let total = 0;
    for (let i = 0; i < side * side; i += 1) {
      const mean = pictures.reduce((sum, x) => sum + x[i], 0) / pictures.length;
      const square = pictures.reduce((sum, x) => sum + (x[i] - mean) ** 2, 0);
      total += Math.sqrt(square / (pictures.length - 1));
    }
    return total / (side * side);
  }

  // --- what the reader has chosen --------------------------------------------------------------

  const draws = (seed, draw) => {
    const u = uniform(seed);
    return Array.from({ length: steps }, () => draw(u));
  };
  let label = 3;
  const seeds = { start: 1, end: 2, drop: 3 };
  let start = drawZ(uniform(seeds.start));
  let end = drawZ(uniform(seeds.end));
  const others = draws(0, drawZ);
  let masks = draws(seeds.drop, drawDrop);
  let share = 0; // of the way from start to end
  let dropping = false;

  const on = (t) => start.map((v, i) => (1 - t) * v + t * end[i]);
  const mask = () => (dropping ? masks[0] : null);

  // --- rows ------------------------------------------------------------------------------------

  const tile = 56;
  const frame = (context, at) => {
    context.strokeStyle = colour("second");
    context.lineWidth = 3;
    context.strokeRect(at * tile + 1.5, 1.5, tile - 3, tile - 3);
  };

  // A row of ten pictures under its name; `make` gives the k-th, `chosen` the framed one.
  function row(name, text, make, chosen = () => null) {
    const made = { name, spread: 0, pictures: [] };
    const said = element("span", {});
    const canvas = lab.canvas({
      width: steps * tile, height: tile, text,
      draw: (context) => {
        made.pictures.forEach((x, k) => paint(context, x, side, k * tile, 0, tile));
        if (chosen() !== null) frame(context, chosen());
      },
    });
    made.renew = () => {
      made.pictures = Array.from({ length: steps }, (_, k) => make(k));
      made.spread = spread(made.pictures);
      said.textContent = `${name}: spread ${made.spread.toFixed(4)}`;
      canvas.redraw();
    };
    made.redraw = canvas.redraw;
    made.box = element("div", { class: "gb-lab-column" }, said, canvas);
    return made;
  }

  const rows = {
    labels: row(
      "Labels 0 to 9, z stays", "Pictures of the same z under the labels from 0 to 9",
      (k) => generate(on(share), k, mask()), () => label,
    ),
    walk: row(
      "z from start to end, label stays", "Pictures of ten places on the line from z to z",
      (k) => generate(on(k / (steps - 1)), label, mask()), () => share * (steps - 1),
    ),
    z: row(
      "Ten other draws of z, label stays", "Pictures of ten draws of z under the label",
      (k) => generate(others[k], label, mask()),
    ),
    drops: row(
      "Ten times other units dropped, z and label stay", "Pictures with other units dropped",
      (k) => generate(on(share), label, masks[k]), () => (dropping ? 0 : null),
    ),
  };

  let picture = null;
  const large = lab.canvas({
    width: 224, height: 224, text: "The picture of the label and z that are chosen",
    draw: (context) => picture && paint(context, picture, side, 0, 0, 224),
  });

  function renew(...names) {
    for (const name of names) rows[name].renew();
    picture = generate(on(share), label, mask());
    large.redraw();
    const numbers = ["labels", "z", "drops"].map((name) => rows[name].spread.toFixed(4));
    say(
      `Label ${label}, ${Math.round(100 * share)} % of the way from start to end, ` +
        `${dropping ? "units dropped" : "nothing dropped"}. Spread of a pixel: ` +
        `${numbers[0]} from the label, ${numbers[1]} from z, ${numbers[2]} from dropped units.`,
    );
  }

  // --- controls --------------------------------------------------------------------------------

  const buttons = Array.from({ length: labels }, (_, y) =>
    lab.button(String(y), () => {
      label = y;
      press();
      rows.labels.redraw();
      renew("walk", "z", "drops");
    }, { "aria-label": `Label ${y}` }));
  const press = () => buttons.forEach((b, y) => b.setAttribute("aria-pressed", y === label));

  // A button that draws something again.
  const again = (text, which, change) =>
    lab.button(text, () => {
      seeds[which] += 10;
      change(seeds[which]);
    });
  const along = lab.slider({
    text: "start to end", min: 0, max: 1, step: 0.01, value: share,
    show: (t) => `${Math.round(100 * t)} %`,
    change: (t) => {
      share = t;
      rows.walk.redraw();
      renew("labels", "drops");
    },
  });
  const newStart = again("New start", "start", (seed) => {
    start = drawZ(uniform(seed));
    renew("labels", "walk", "drops");
  });
  const newEnd = again("New end", "end", (seed) => {
    end = drawZ(uniform(seed));
    renew("labels", "walk", "drops");
  });
  const player = lab.player("Walk", () => {
    along.set(share >= 1 ? 0 : Math.min(1, share + 0.02));
    return share < 1;
  });
  const drop = lab.toggle("Drop units", dropping, (down) => {
    dropping = down;
    renew("labels", "walk", "z", "drops");
  });
  const newDrops = again("Drop others", "drop", (seed) => {
    masks = draws(seed, drawDrop);
    renew("labels", "walk", "z", "drops");
  });

  lab.row(...buttons);
  const group = (...inside) => element("div", { class: "gb-lab-row" }, ...inside);
  lab.row(large, element(
    "div", { class: "gb-lab-column" },
    along, group(newStart, newEnd, player), group(drop, newDrops),
  ));
  for (const made of Object.values(rows)) lab.row(made.box);
  const say = lab.status();
  press();
  renew("labels", "walk", "z", "drops");
  Object.assign(lab.probe, { generate, spread, rows });
});
