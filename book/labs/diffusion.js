// Diffusion in the plane, forward and back, with the best denoiser there is: that of a mixture of
// normal densities, whose heaps the reader chooses or draws. t = 0 is the data, t = T the noise.
genbookLab.define("diffusion", (lab) => {
  const { uniform, normal, colour, calm, element, write, dot } = genbookLab;
  const T = 1000; // paper
  const reach = 2; // the plane shows -2 to 2
  const side = 316;
  const count = 300; // points of a cloud
  const most = 120; // heaps

  // --- the chapter's equations -----------------------------------------------------------------

  // alpha_bar of the paper's schedule: beta from 1e-4 to 0.02 in equal steps, section 4.
  const alphaBar = new Float64Array(T + 1).fill(1);
  for (let t = 1; t <= T; t += 1) {
    alphaBar[t] = alphaBar[t - 1] * (1 - (0.1 + (19.9 * (t - 1)) / (T - 1)) / T);
  }

  // The process that visits only some times, evenly, as `respaced`; beta_tilde of equation (7).
  function respaced(steps) {
    const times = Array.from({ length: steps + 1 }, (_, i) => Math.round((i * T) / steps));
    const abar = times.map((t) => alphaBar[t]);
    const beta = abar.map((a, i) => (i ? 1 - a / abar[i - 1] : 0));
    const tilde = beta.map((b, i) => (i ? (b * (1 - abar[i - 1])) / (1 - abar[i]) : 0));
    const variances = { "σ² = β": [...beta], "σ² = β̃": [...tilde] };
    for (const table of Object.values(variances)) table[1] = tilde[2]; // official code
    return { times, abar, beta, variances };
  }

  // The slope of log q(x_t) for x_0 from equally many points of every heap N(mean, std^2 I).
  function score([x, y], abar) {
    const root = Math.sqrt(abar);
    const variance = abar * std ** 2 + 1 - abar;
    let nearest = Infinity;
    for (const [a, b] of heaps) {
      nearest = Math.min(nearest, (x - root * a) ** 2 + (y - root * b) ** 2);
    }
    let [sum, along, up] = [0, 0, 0];
    for (const [a, b] of heaps) {
      const [dx, dy] = [x - root * a, y - root * b];
      const weight = Math.exp((nearest - dx * dx - dy * dy) / (2 * variance));
      sum += weight;
      along += weight * dx;
      up += weight * dy;
    }
    return [-along / sum / variance, -up / sum / variance];
  }

  // E[eps|x_t], what the best network says: -sqrt(1 - abar) times the score.
  const eps = (x, abar) => score(x, abar).map((s) => -Math.sqrt(1 - abar) * s);

  // The x_0 that the noise e leads back to, equation (15).
  const believed = (x, e, abar) =>
    x.map((v, j) => (v - Math.sqrt(1 - abar) * e[j]) / Math.sqrt(abar));

  // x_i of the respaced process p from x_{i-1}, equation (2).
  const noised = (p, i, x, z) =>
    x.map((v, j) => Math.sqrt(1 - p.beta[i]) * v + Math.sqrt(p.beta[i]) * z[j]);

  // x_{i-1} from x_i: DDIM with eta = 0, or a step of Algorithm 2 with the mean of equation (7).
  function denoised(p, sampler, i, x, z) {
    const [now, next] = [p.abar[i], p.abar[i - 1]];
    const e = eps(x, now);
    const x0 = believed(x, e, now);
    if (sampler === "DDIM") {
      return x0.map((v, j) => Math.sqrt(next) * v + Math.sqrt(1 - next) * e[j]);
    }
    const ofX0 = (p.beta[i] * Math.sqrt(next)) / (1 - now);
    const ofX = ((1 - next) * Math.sqrt(1 - p.beta[i])) / (1 - now);
    const sigma = i > 1 ? Math.sqrt(p.variances[sampler][i]) : 0;
    return x.map((v, j) => ofX0 * x0[j] + ofX * v + sigma * z[j]);
  }

  // As in the chapter: the share of points within three standard deviations of a heap, and how
  // many heaps have one.
  function near(points) {
    const seen = new Set();
    let inside = 0;
    for (const [x, y] of points) {
      let [gap, heap] = [Infinity, 0];
      heaps.forEach(([a, b], k) => {
        const now = (x - a) ** 2 + (y - b) ** 2;
        if (now < gap) [gap, heap] = [now, k];
      });
      if (Math.sqrt(gap) < 3 * std) {
        inside += 1;
        seen.add(heap);
      }
    }
    return { share: inside / points.length, found: seen.size };
  }

  // --- data ------------------------------------------------------------------------------------

  const turns = (n, place) => Array.from({ length: n }, (_, k) => place(k / n));
  const polar = (radius, turn) => [Math.cos, Math.sin].map((f) => radius * f(2 * Math.PI * turn));
  const shapes = {
    "five heaps": () => turns(5, (s) => polar(0.65, s)),
    ring: () => turns(40, (s) => polar(0.9, s)),
    spiral: () => turns(40, (s) => polar(0.2 + s, 1.75 * s)),
    "my own": () => [],
  };

  // --- what the reader has chosen ----------------------------------------------------------------

  let heaps = shapes["five heaps"]();
  let std = 0.1;
  let sampler = "σ² = β";
  let p = respaced(100);
  let seed = 0;
  let t = T;
  let shown = "noise to data";
  let beliefs = false;
  let paths = null; // a cloud for each visited time, of each of the two ways
  const cursor = [0, 0];

  function walk() {
    const draw = normal(seed);
    const pick = uniform(seed + 1e6);
    const pair = () => [draw(), draw()];
    const cloud = (make) => Array.from({ length: count }, make);
    const data = cloud(() => {
      const heap = heaps[Math.floor(pick() * heaps.length)];
      return pair().map((z, j) => heap[j] + std * z);
    });
    const forward = [data];
    const reverse = [];
    reverse[p.times.length - 1] = cloud(pair);
    for (let i = 1; i < p.times.length; i += 1) {
      forward[i] = forward[i - 1].map((x) => noised(p, i, x, pair()));
    }
    for (let i = p.times.length - 1; i > 0; i -= 1) {
      reverse[i - 1] = reverse[i].map((x) => denoised(p, sampler, i, x, pair()));
    }
    const every = Math.max(1, (p.times.length - 1) / 100);
    const told = p.times.map((_, i) => i).filter((i) => i % every === 0);
    const shares = (path) => told.map((i) => [p.times[i], near(path[i]).share]);
    paths = {
      "data to noise": forward, "noise to data": reverse,
      shares: { "data to noise": shares(forward), "noise to data": shares(reverse) },
    };
  }

  // The place among the visited times of the first one that is not before t.
  const at = () => p.times.findIndex((time) => time >= t);

  function changed() {
    if (heaps.length) walk();
    else paths = null;
    lab.redraw();
    report();
  }

  function report() {
    if (!paths) return say("The plane is empty: put points into it.");
    const i = at();
    const { share, found } = near(paths[shown][i]);
    return say(
      `${shown}, t = ${p.times[i]}, ᾱ = ${p.abar[i].toFixed(4)}: ${(100 * share).toFixed(1)} % ` +
        `of ${count} points lie within 3 standard deviations of a heap, ${found} of ` +
        `${heaps.length} heaps have one. The longest arrow is a score of ` +
        `${longest().toPrecision(3)}.`,
    );
  }

  // --- pictures ----------------------------------------------------------------------------------

  const unit = side / (2 * reach);
  const place = ([x, y]) => [(reach + x) * unit, (reach - y) * unit];
  const ticks = Array.from({ length: 14 }, (_, k) => ((k + 0.5) / 7 - 1) * reach);
  const grid = ticks.flatMap((x) => ticks.map((y) => [x, y]));
  const longest = () => Math.max(...grid.map((x) => Math.hypot(...score(x, p.abar[at()]))));

  function arrow(context, [x, y], [dx, dy]) {
    const size = Math.hypot(dx, dy);
    if (size < 1) return;
    const [a, b] = [dx, dy].map((v) => (v / size) * Math.min(4, size / 2));
    context.moveTo(x, y);
    for (const turn of [-0.6, 0.6]) {
      context.lineTo(x + dx, y + dy);
      context.lineTo(x + dx - a - turn * b, y + dy - b + turn * a);
    }
  }

  // The ground within three standard deviations of a heap, all in one tint.
  function drawHeaps(context) {
    context.fillStyle = colour("second");
    for (const heap of heaps) dot(context, ...place(heap), 2);
    context.beginPath();
    for (const [x, y] of heaps.map(place)) {
      context.moveTo(x, y);
      context.arc(x, y, 3 * std * unit, 0, 2 * Math.PI);
    }
    context.globalAlpha = 0.22;
    context.fill();
    context.globalAlpha = 1;
  }

  function drawScore(context, abar) {
    const scale = 22 / longest();
    context.strokeStyle = colour("line");
    context.beginPath();
    for (const x of grid) {
      const [dx, dy] = score(x, abar);
      arrow(context, place(x), [dx * scale, -dy * scale]);
    }
    context.stroke();
  }

  function drawPlane(context) {
    context.clearRect(0, 0, side, side);
    drawHeaps(context);
    if (paths) {
      const abar = p.abar[at()];
      const points = paths[shown][at()];
      drawScore(context, abar);
      context.fillStyle = colour("first");
      for (const x of points) dot(context, ...place(x), 1.8);
      context.fillStyle = colour("fourth");
      for (const x of beliefs ? points : []) {
        dot(context, ...place(believed(x, eps(x, abar), abar)), 1.8);
      }
    } else write(context, "Draw points here", side / 2, side / 2);
    if (document.activeElement !== plane) return;
    const [x, y] = place(cursor);
    context.fillStyle = colour("ink");
    context.fillRect(x - 8, y - 1, 16, 2);
    context.fillRect(x - 1, y - 8, 2, 16);
  }

  // The share near a heap against t, of both ways.
  function drawShares(context) {
    const [left, right, top, bottom] = [44, 298, 12, 120];
    const across = (time) => left + (time / T) * (right - left);
    const high = (share) => bottom - share * (bottom - top);
    context.clearRect(0, 0, side, 160);
    for (const share of [0, 0.5, 1]) {
      context.fillStyle = colour("grid");
      context.fillRect(left, high(share), right - left, 1);
      write(context, `${100 * share} %`, left - 4, high(share), "right");
    }
    for (const time of [0, 500, T]) write(context, String(time), across(time), bottom + 14);
    write(context, "t", across(750), bottom + 14);
    if (!paths) return;
    context.fillStyle = colour("line");
    context.fillRect(across(p.times[at()]) - 0.5, top, 1.5, bottom - top);
    context.lineWidth = 2;
    const styles = { "data to noise": ["second", [5, 4]], "noise to data": ["first", []] };
    for (const [way, [name, dashes]] of Object.entries(styles)) {
      context.strokeStyle = colour(name);
      context.setLineDash(dashes);
      context.beginPath();
      for (const [time, share] of paths.shares[way]) context.lineTo(across(time), high(share));
      context.stroke();
    }
    context.setLineDash([]);
    write(context, "share near a heap: solid back, dashed forth", side / 2, bottom + 32);
  }

  // --- controls ----------------------------------------------------------------------------------

  const plane = lab.canvas({
    width: side, height: side, draw: drawPlane, attributes: { tabindex: 0 },
    text: "Points at time t, the score as arrows, and the heaps of the data on tinted ground. " +
      "Arrow keys move a cursor, the space bar puts a heap there, Backspace takes one away.",
  });
  function put(heap) {
    heaps = [...heaps, heap].slice(-most);
    data.querySelector("select").value = "my own";
  }
  const inPlane = (v) => Math.max(-reach, Math.min(reach, v));
  lab.steer(plane, {
    point: ([x, y]) => {
      const heap = [inPlane(x / unit - reach), inPlane(reach - y / unit)];
      if (heaps.some(([a, b]) => Math.hypot(heap[0] - a, heap[1] - b) < 0.08)) return;
      put(heap);
      plane.redraw();
    },
    arrow: (step) => {
      step.forEach((v, j) => { cursor[j] = inPlane(cursor[j] + 0.1 * v); });
      plane.redraw();
    },
  });
  plane.addEventListener("pointerup", changed);
  plane.addEventListener("keydown", (event) => {
    if (event.key === " ") put([...cursor]);
    else if (event.key === "Backspace") heaps = heaps.slice(0, -1);
    else return;
    event.preventDefault();
    changed();
  });
  for (const turn of ["focus", "blur"]) plane.addEventListener(turn, () => plane.redraw());
  const shares = lab.canvas({
    width: side, height: 160, draw: drawShares,
    text: "Share of the points near a heap against t, from data to noise and from noise to data.",
  });

  const show = (way) => {
    shown = way;
    ways.querySelector("select").value = way;
  };
  const playing = (text, way, from, to) => {
    const stride = (calm() ? 50 : 5) * Math.sign(to - from);
    return lab.player(text, () => {
      const fresh = shown !== way || t === to;
      show(way);
      time.set(fresh ? from : t + stride);
      return t !== to;
    });
  };
  const time = lab.slider({
    text: "t", min: 0, max: T, step: 1, value: t,
    change: (now) => {
      t = now;
      plane.redraw();
      shares.redraw();
      report();
    },
  });
  const anew = (set) => (value) => {
    set(value);
    changed();
  };
  const data = lab.choice("data", Object.keys(shapes), "five heaps", anew((name) => {
    heaps = shapes[name]();
  }));
  const spread = lab.slider({
    text: "standard deviation of a heap", min: 0.02, max: 0.3, step: 0.01, value: std,
    show: (v) => v.toFixed(2), change: anew((v) => { std = v; }),
  });
  const ways = lab.choice("show", ["noise to data", "data to noise"], shown, (way) => {
    show(way);
    lab.redraw();
    report();
  });
  const kinds = [...Object.keys(p.variances), "DDIM"];
  const samplers = lab.choice("sampler", kinds, sampler, anew((kind) => { sampler = kind; }));
  const steps = lab.choice("steps", ["10", "30", "100", "1000"], "100", anew((number) => {
    p = respaced(Number(number));
  }));
  const again = lab.button("Draw again (seed 0)", anew(() => {
    seed += 1;
    again.textContent = `Draw again (seed ${seed})`;
  }));
  const clear = lab.button("Clear the plane", anew(() => {
    heaps = [];
    data.querySelector("select").value = "my own";
  }));
  const guess = lab.toggle("Believed x₀", false, (down) => {
    beliefs = down;
    plane.redraw();
  });
  const back = playing("Noise to data", "noise to data", T, 0);
  const on = playing("Data to noise", "data to noise", 0, T);
  back.addEventListener("click", () => on.stop());
  on.addEventListener("click", () => back.stop());

  lab.row(back, on, time);
  lab.row(plane, element("div", { class: "gb-lab-column" }, shares, ways, samplers, steps));
  lab.row(data, clear, again);
  lab.row(spread, guess);
  const say = lab.status();
  changed();
  Object.assign(lab.probe, {
    alphaBar, respaced, score, eps, noised, denoised,
    data: (means, deviation) => { [heaps, std] = [means, deviation]; },
    paths: () => paths,
    heaps: () => heaps,
  });
});
