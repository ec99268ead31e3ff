// The committed rate of the slow prior over length and alpha, and a posterior that tries to get
// below it. Nats throughout; t counts the positions in time, k the latents of a position.
genbookLab.define("delta_vae", (lab) => {
  const { normal, colour, write, dot } = genbookLab;
  const longest = 64;
  const highest = 0.99;

  // --- the chapter's equations -----------------------------------------------------------------

  // Equation (committed) for one latent: the smallest KL(q || p) of any factored q, n >= 2.
  const rate = (alpha, n) =>
    0.5 * ((n - 2) * Math.log1p(alpha ** 2) - Math.log1p(-(alpha ** 2)));

  // The variances s_t^2 at which it is reached, with means 0: 1 over the diagonal of Lambda.
  const closest = (alpha, n) =>
    Array.from({ length: n }, (_, t) =>
      (1 - alpha ** 2) / (t === 0 || t === n - 1 ? 1 : 1 + alpha ** 2));

  // KL(q || p) of one latent and its slopes, as `ar1_kl`; `free` holds n means, then n log s_t^2.
  function kl(free, alpha) {
    const n = free.length / 2;
    const noise = 1 - alpha ** 2;
    const v = free.slice(n).map(Math.exp);
    const slope = new Float64Array(2 * n);
    let value = 0.5 * (free[0] ** 2 + v[0] - 1 - free[n]);
    slope[0] = free[0];
    slope[n] = 0.5 * (v[0] - 1);
    for (let t = 1; t < n; t += 1) {
      const gap = free[t] - alpha * free[t - 1];
      const square = gap ** 2 + v[t] + alpha ** 2 * v[t - 1];
      value += 0.5 * (square / noise - 1 + Math.log(noise) - free[n + t]);
      slope[t] += gap / noise;
      slope[t - 1] -= (alpha * gap) / noise;
      slope[n + t] += 0.5 * (v[t] / noise - 1);
      slope[n + t - 1] += (0.5 * alpha ** 2 * v[t - 1]) / noise;
    }
    return { value, slope };
  }

  // --- the minimiser, which knows nothing but `kl` -----------------------------------------------

  const inner = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
  const moved = (from, way, length) => from.map((v, i) => v + length * way[i]);

  // Changes `free` step by step until the slope is gone: conjugate gradients (Polak and Ribière),
  // with the length of a step from the bend along its way, halved until the divergence falls.
  function* descent(free, alpha) {
    let here = kl(free, alpha);
    let way = here.slope.map((s) => -s);
    while (inner(here.slope, here.slope) > 1e-10) {
      const probe = 1e-5 / Math.sqrt(inner(way, way));
      const fall = inner(here.slope, way);
      const bend = (inner(kl(moved(free, way, probe), alpha).slope, way) - fall) / probe;
      let length = -fall / bend;
      let there = kl(moved(free, way, length), alpha);
      while (!(there.value <= here.value) && length > 1e-12) {
        length /= 2;
        there = kl(moved(free, way, length), alpha);
      }
      if (!(there.value < here.value)) return; // no lower to the last digit
      free.set(moved(free, way, length));
      const change = inner(there.slope, there.slope) - inner(there.slope, here.slope);
      const keep = Math.max(0, change / inner(here.slope, here.slope));
      way = way.map((w, i) => keep * w - there.slope[i]);
      if (inner(way, there.slope) >= 0) way = there.slope.map((s) => -s);
      here = there;
      yield here.value;
    }
  }

  // The smallest KL of one latent that the minimiser finds; it starts where the chapter's does.
  const found = new Map();
  function minimum(alpha, n) {
    const key = `${alpha},${n}`;
    if (!found.has(key)) {
      const free = new Float64Array(2 * n).fill(1);
      for (const _ of descent(free, alpha)); // to the end
      found.set(key, kl(free, alpha).value);
    }
    return found.get(key);
  }

  // --- what the reader has chosen ----------------------------------------------------------------

  let n = 28;
  let latents = 4;
  let first = 0.5;
  let last = 0.95;
  let free = new Float64Array(2 * n); // q of the last latent, at first the prior's own N(0, 1)
  let chosen = 0; // the position in time that the keys change
  let seed = 0;
  let way = null; // a descent that goes on

  const alphas = () =>
    Array.from({ length: latents }, (_, k) =>
      latents === 1 ? last : first + ((last - first) * k) / (latents - 1));
  const total = (of) => alphas().reduce((sum, alpha) => sum + of(alpha), 0);

  function report() {
    const delta = total((alpha) => rate(alpha, n));
    const smallest = total((alpha) => minimum(alpha, n));
    say(
      `δ for n = ${n} and K = ${latents}: ${delta.toFixed(4)} nats ` +
        `(${(delta / Math.LN2).toFixed(2)} bits) by the formula, ${smallest.toFixed(4)} nats by ` +
        `the minimiser. Your q of the latent with α = ${last.toFixed(2)}: ` +
        `${kl(free, last).value.toFixed(4)} nats; its share of δ is ${rate(last, n).toFixed(4)}.`,
    );
  }

  function changed() {
    way = null;
    lab.redraw();
    report();
  }

  // --- pictures ----------------------------------------------------------------------------------

  const size = [316, 268];
  const map = { left: 34, top: 8, width: 4 * (longest - 1), height: 220 };
  const mapX = (steps) => map.left + ((steps - 1.5) / (longest - 1)) * map.width;
  const mapY = (alpha) => map.top + (1 - alpha / highest) * map.height;

  // The alpha at which a sequence of that length has that rate, by halving an interval.
  function alphaOf(level, steps) {
    let [low, high] = [0, highest];
    for (let i = 0; i < 30; i += 1) {
      const middle = (low + high) / 2;
      if (rate(middle, steps) < level) low = middle;
      else high = middle;
    }
    return low;
  }

  function drawMap(context) {
    context.clearRect(0, 0, ...size);
    context.fillStyle = colour("first");
    const most = rate(highest, longest);
    for (let steps = 2; steps <= longest; steps += 1) {
      for (let i = 0; i < 110; i += 1) {
        context.globalAlpha = 0.65 * Math.sqrt(rate(((i + 0.5) / 110) * highest, steps) / most);
        const y = map.top + map.height - 2 * (i + 1);
        context.fillRect(mapX(steps - 0.5), y, map.width / (longest - 1), 2);
      }
    }
    context.globalAlpha = 1;
    context.strokeStyle = colour("ink");
    context.lineWidth = 1;
    for (const level of [0.5, 1, 2, 4, 8, 16]) {
      context.beginPath();
      for (let steps = 2; steps <= longest; steps += 1) {
        if (rate(highest, steps) < level) continue;
        context.lineTo(mapX(steps), mapY(alphaOf(level, steps)));
      }
      context.stroke();
      write(context, level, map.left + map.width + 4, mapY(alphaOf(level, longest)), "left");
    }
    for (const steps of [2, 16, 32, 48, 64]) write(context, steps, mapX(steps), 238);
    for (const alpha of [0, 0.25, 0.5, 0.75]) write(context, alpha, 30, mapY(alpha), "right");
    write(context, "length n", map.left + map.width / 2, 256);
    write(context, "α", 22, map.top + 6);
    context.strokeStyle = context.fillStyle = colour("second");
    context.lineWidth = 2;
    for (const alpha of alphas()) dot(context, mapX(n), mapY(alpha), 4, alpha !== last);
    dot(context, mapX(n), mapY(last), 7, false);
  }

  // Two strips over t: the variances on a logarithmic scale, and the means.
  const strip = { left: 40, right: 308, variance: [12, 150], mean: [172, 236] };
  const tiny = 0.002;
  const large = 5;
  const atT = (t) => strip.left + ((t + 0.5) / n) * (strip.right - strip.left);
  const ofVariance = (v) => {
    const [top, bottom] = strip.variance;
    const part = Math.log(v / tiny) / Math.log(large / tiny);
    return bottom - Math.max(0, Math.min(1, part)) * (bottom - top);
  };
  const ofMean = (m) => {
    const [top, bottom] = strip.mean;
    return (top + bottom) / 2 - (Math.max(-3, Math.min(3, m)) / 6) * (bottom - top);
  };

  function drawPosterior(context) {
    context.clearRect(0, 0, ...size);
    context.fillStyle = colour("grid");
    context.fillRect(atT(chosen) - 3, strip.variance[0], 6, strip.mean[1] - strip.variance[0]);
    for (const v of [0.01, 0.1, 1]) {
      context.fillRect(strip.left, ofVariance(v), strip.right - strip.left, 1);
      write(context, v, 34, ofVariance(v), "right");
      context.fillStyle = colour("grid");
    }
    context.fillRect(strip.left, ofMean(0), strip.right - strip.left, 1);
    write(context, "0", 34, ofMean(0), "right");
    write(context, "s²", 12, ofVariance(0.03));
    write(context, "μ", 12, ofMean(0));
    write(context, `position t, 1 to ${n}`, (strip.left + strip.right) / 2, 256);
    const radius = n > 40 ? 1.5 : 3;
    context.lineWidth = 1.5;
    closest(last, n).forEach((v, t) => {
      context.strokeStyle = colour("second");
      dot(context, atT(t), ofVariance(v), radius + 1.5, false);
      dot(context, atT(t), ofMean(0), radius + 1.5, false);
      context.fillStyle = colour("first");
      dot(context, atT(t), ofVariance(Math.exp(free[n + t])), radius);
      dot(context, atT(t), ofMean(free[t]), radius);
    });
  }

  // --- controls ----------------------------------------------------------------------------------

  const surface = lab.canvas({
    width: size[0], height: size[1], draw: drawMap, attributes: { tabindex: 0 },
    text: "The committed rate of one latent over length n and α, with lines of equal rate and " +
      "a dot for each latent. Arrow keys change n and the last latent's α.",
  });
  const pair = (steps, alpha) => {
    nSlider.set(Math.max(2, Math.min(longest, steps)));
    lastSlider.set(Math.max(0, Math.min(highest, alpha)));
  };
  lab.steer(surface, {
    point: ([x, y]) => {
      const steps = Math.round(((x - map.left) / map.width) * (longest - 1) + 1.5);
      pair(steps, Math.round((1 - (y - map.top) / map.height) * highest * 100) / 100);
    },
    arrow: ([along, up]) => pair(n + along, last + 0.01 * up),
  });

  const posterior = lab.canvas({
    width: size[0], height: size[1], draw: drawPosterior, attributes: { tabindex: 0 },
    text: "Variances and means of your q for the last latent, dots, and of the closest q, rings. " +
      "Left and right choose t, up and down change its variance, with Shift its mean.",
  });
  const set = (t, part, value) => {
    const [low, high] = part ? [Math.log(tiny), Math.log(large)] : [-3, 3];
    chosen = Math.max(0, Math.min(n - 1, t));
    free[part * n + chosen] = Math.max(low, Math.min(high, value));
    changed();
  };
  lab.steer(posterior, {
    point: ([x, y]) => {
      const t = Math.floor(((x - strip.left) / (strip.right - strip.left)) * n);
      const [part, [top, bottom]] = y < 161 ? [1, strip.variance] : [0, strip.mean];
      const height = (bottom - y) / (bottom - top);
      set(t, part, part ? Math.log(tiny) + height * Math.log(large / tiny) : 6 * height - 3);
    },
    arrow: ([along, up], event) => {
      const part = event.shiftKey ? 0 : 1;
      const t = Math.max(0, Math.min(n - 1, chosen + along));
      set(t, part, free[part * n + t] + 0.1 * up);
    },
  });

  const anew = (set) => (value) => {
    set(value);
    changed();
  };
  const ofAlpha = (text, value, set) =>
    lab.slider({
      text, min: 0, max: highest, step: 0.01, value, show: (a) => a.toFixed(2), change: anew(set),
    });
  const nSlider = lab.slider({
    text: "length n", min: 2, max: longest, step: 1, value: n,
    change: anew((steps) => {
      if (steps !== n) free = new Float64Array(2 * steps);
      n = steps;
      chosen = Math.min(chosen, n - 1);
    }),
  });
  const kSlider = lab.slider({
    text: "latents K", min: 1, max: 64, step: 1, value: latents,
    change: anew((k) => { latents = k; }),
  });
  const firstSlider = ofAlpha("first α", first, (a) => { first = a; });
  const lastSlider = ofAlpha("last α", last, (a) => { last = a; });

  const minimise = lab.player("Minimise KL(q‖p)", () => {
    way = way || descent(free, last);
    const { done } = way.next();
    posterior.redraw();
    report();
    if (done) way = null;
    return !done;
  });
  const random = lab.button("Draw q at random", anew(() => {
    seed += 1;
    const noise = normal(seed);
    free = free.map((_, i) => (i < n ? noise() : noise() - 1.5));
    random.textContent = `Draw q at random (seed ${seed})`;
  }));
  const marginal = lab.button("q = the prior's N(0, 1)", anew(() => free.fill(0)));

  lab.row(nSlider, kSlider, firstSlider, lastSlider);
  lab.row(surface, posterior);
  lab.row(minimise, random, marginal);
  const say = lab.status();
  report();
  Object.assign(lab.probe, { rate, closest, kl, minimum, posterior: () => free });
});
