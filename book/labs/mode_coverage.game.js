// A game of two small networks in plain JavaScript: the networks, their training, and what the
// chapter on mode coverage counts in samples.  The lab beside it shows it.
genbookLab.game = (() => {
  const UNITS = 64;
  const RATE = 1e-3;
  const BETAS = [0.5, 0.9]; // as the chapter's games
  const OCTAVES = 6; // of the sharp discriminator

  // --- networks: x [M, inputs] row by row in one array, weights [out, in] and biases in another ---

  // Uniform in +-1 / sqrt(inputs), as torch's own layers; `leak` is the slope of a unit below 0.
  function network(widths, leak, octaves, u) {
    const layers = [];
    let size = 0;
    for (let l = 1; l < widths.length; l += 1) {
      layers.push({ ins: widths[l - 1], outs: widths[l], at: size });
      size += widths[l] * (widths[l - 1] + 1);
    }
    const weights = new Float64Array(size);
    for (const { ins, outs, at } of layers) {
      for (let i = at; i < at + outs * (ins + 1); i += 1) weights[i] = (2 * u() - 1) / Math.sqrt(ins);
    }
    const [slopes, first, second] = [0, 1, 2].map(() => new Float64Array(size));
    return { layers, leak, octaves, weights, slopes, first, second, count: 0 };
  }

  // What every layer gives, four rows at a time, so that a weight is read once for all of them.
  function forward({ layers, leak, octaves, weights }, x) {
    const tape = [octaves ? sines(x, layers[0].ins / (1 + 2 * octaves), octaves) : x];
    for (const layer of layers) {
      const { ins, outs, at } = layer;
      const from = tape.at(-1);
      const to = new Float64Array((from.length / ins) * outs);
      const bent = (v) => (layer === layers.at(-1) || v > 0 ? v : leak * v);
      for (let n = 0, f = 0; f < from.length; n += 4 * outs, f += 4 * ins) {
        for (let o = 0, w = at; o < outs; o += 1) {
          let [a, b, c, d] = Array(4).fill(weights[at + ins * outs + o]);
          for (let i = f; i < f + ins; i += 1, w += 1) {
            const weight = weights[w];
            a += weight * from[i];
            b += weight * from[i + ins];
            c += weight * from[i + 2 * ins];
            d += weight * from[i + 3 * ins];
          }
          to[n + o] = bent(a);
          to[n + outs + o] = bent(b);
          to[n + 2 * outs + o] = bent(c);
          to[n + 3 * outs + o] = bent(d);
        }
      }
      tape.push(to);
    }
    return tape;
  }

  // The slope of a loss at the input of a net from that at its output; those of the net's own
  // weights are added to `slopes`, unless it only passes another's loss on.
  function backward({ layers, leak, octaves, weights, slopes }, tape, slope, own = true) {
    for (let l = layers.length - 1; l >= 0; l -= 1) {
      const { ins, outs, at } = layers[l];
      const from = tape[l];
      const before = new Float64Array(from.length);
      for (let n = 0, f = 0; f < from.length; n += outs, f += ins) {
        for (let o = 0, w = at; o < outs; o += 1, w += ins) {
          const s = slope[n + o];
          if (s === 0) continue;
          for (let i = 0; i < ins; i += 1) before[f + i] += s * weights[w + i];
          if (!own) continue;
          for (let i = 0; i < ins; i += 1) slopes[w + i] += s * from[f + i];
          slopes[at + ins * outs + o] += s;
        }
      }
      if (l > 0) from.forEach((v, i) => v > 0 || (before[i] *= leak));
      slope = before;
    }
    return octaves ? sinesBack(tape[0], slope, layers[0].ins / (1 + 2 * octaves), octaves) : slope;
  }

  // x and the sines and cosines of x, 2 x, 4 x, ...: what a sharp discriminator sees (genbook.nn).
  function sines(x, width, octaves) {
    const wide = width * (1 + 2 * octaves);
    const y = new Float64Array((x.length / width) * wide);
    x.forEach((v, i) => {
      const [row, d] = [Math.floor(i / width) * wide, i % width];
      y[row + d] = v;
      for (let k = 0; k < octaves; k += 1) {
        y[row + width + d * octaves + k] = Math.sin(v * 2 ** k);
        y[row + width * (1 + octaves) + d * octaves + k] = Math.cos(v * 2 ** k);
      }
    });
    return y;
  }

  function sinesBack(y, slope, width, octaves) {
    const wide = width * (1 + 2 * octaves);
    return new Float64Array((y.length / wide) * width).map((_, i) => {
      const [row, d] = [Math.floor(i / width) * wide, i % width];
      let sum = slope[row + d];
      for (let k = 0; k < octaves; k += 1) {
        const sin = row + width + d * octaves + k;
        const cos = sin + width * octaves;
        sum += 2 ** k * (slope[sin] * y[cos] - slope[cos] * y[sin]);
      }
      return sum;
    });
  }

  // Adam (Kingma and Ba, Algorithm 1).
  function adam(net) {
    const { weights, slopes, first, second } = net;
    const [b1, b2] = BETAS;
    net.count += 1;
    const [whole1, whole2] = [1 - b1 ** net.count, 1 - b2 ** net.count];
    for (let i = 0; i < weights.length; i += 1) {
      first[i] += (1 - b1) * (slopes[i] - first[i]);
      second[i] += (1 - b2) * (slopes[i] * slopes[i] - second[i]);
      weights[i] -= (RATE * first[i]) / whole1 / (Math.sqrt(second[i] / whole2) + 1e-8);
    }
    slopes.fill(0);
  }

  // --- the game: each loss with its slopes at what it is given ---

  const sigmoid = (v) => 1 / (1 + Math.exp(-v));
  const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
  const mean = (x, f) => x.reduce((sum, v) => sum + f(v), 0) / x.length;

  // Equation (mc-game), left: -log D(x) - log(1 - D(G(z))), from logits.
  function discriminatorLoss(real, made) {
    const loss = mean(real, (v) => softplus(-v)) + mean(made, softplus);
    const [toReal, toMade] = [real.map((v) => -sigmoid(-v)), made.map(sigmoid)];
    return [loss, toReal.map((s) => s / real.length), toMade.map((s) => s / made.length)];
  }

  // Equation (mc-game), right: -log D(G(z)), the loss that does not saturate.
  function generatorLoss(made) {
    return [mean(made, (v) => softplus(-v)), made.map((v) => -sigmoid(-v) / made.length)];
  }

  // StarGAN v2, equation (3): mean |a - b| of the two halves of the samples, b held still.
  function diversity(made) {
    const half = made.length / 2;
    const gap = made.subarray(0, half).map((v, i) => v - made[half + i]);
    return [mean(gap, Math.abs), gap.map((v) => Math.sign(v) / half)];
  }

  // m samples in one input of D need no work here: rows of 2 m numbers are m rows of 2.
  function play(packed, sharp, u) {
    const octaves = sharp ? OCTAVES : 0;
    const make = network([2, UNITS, UNITS, 2], 0, 0, u);
    const inputs = 2 * packed * (1 + 2 * octaves);
    return { make, tell: network([inputs, UNITS, UNITS, 1], 0.01, octaves, u), packed };
  }

  // One update of both players, each down its own loss; the losses, that of G with its term.
  function update({ make, tell }, x, z, weight) {
    const drawn = forward(make, z);
    const made = drawn.at(-1);
    const [real, fake] = [forward(tell, x), forward(tell, made)];
    const [judge, atReal, atFake] = discriminatorLoss(real.at(-1), fake.at(-1));
    const [cheat, atMade] = generatorLoss(fake.at(-1));
    const [spread, apart] = diversity(made);
    backward(tell, real, atReal);
    backward(tell, fake, atFake);
    const down = backward(tell, fake, atMade, false);
    apart.forEach((s, i) => (down[i] -= weight * s));
    backward(make, drawn, down);
    adam(tell);
    adam(make);
    return [judge, cheat - weight * spread];
  }

  // --- what the chapter counts ---

  // Equation (mc-reverse): modes with a sample within three standard deviations `std`, the share of
  // such samples, and KL(q || even) of their histogram; log K without any, as the chapter's `tally`.
  function tally(samples, means, std) {
    const counts = means.map(() => 0);
    for (let i = 0; i < samples.length; i += 2) {
      const gaps = means.map(([x, y]) => Math.hypot(samples[i] - x, samples[i + 1] - y));
      const nearest = gaps.indexOf(Math.min(...gaps));
      if (gaps[nearest] < 3 * std) counts[nearest] += 1;
    }
    const good = counts.reduce((a, b) => a + b, 0);
    const captured = counts.filter((c) => c > 0);
    const nats = (c) => (c / good) * Math.log((means.length * c) / good);
    const kl = good ? captured.reduce((sum, c) => sum + nats(c), 0) : Math.log(means.length);
    return { counts, good, modes: captured.length, quality: (200 * good) / samples.length, kl };
  }

  return { play, update, forward, tally, sigmoid };
})();
