/**
 * Mixtures of Gaussians of one width, in one dimension or two, in closed form:
 *
 *     q_σ = Σₖ wₖ N(μₖ, (v + σ²)I),    ∇ log q_σ(x) = Σₖ p(k | x) (μₖ − x)/(v + σ²)
 *
 * with samples of them, and Langevin dynamics (Song & Ermon 2019, Algorithm 1) on any score. The
 * file imports nothing and draws nothing: a page includes it as a module or inside one. Samples are
 * rows of one flat Float64Array.
 */

/** Return a generator of uniform and normal numbers: the same seed, the same numbers. */
export function seededRandom(seed) {
  let state = seed >>> 0;
  let spare = null;

  // a Weyl sequence whose bits are mixed by two multiplications, as in SplitMix
  function word() {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  const uniform = () => (word() + 0.5) / 2 ** 32;

  function normal() {
    if (spare !== null) {
      const z = spare;
      spare = null;
      return z;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  return { uniform, normal };
}

/** Return a mixture of Gaussians N(means[k], variance·I), of equal weight if none is given. */
export function gaussianMixture(means, variance, weights = null) {
  const n = means.length;
  const dim = means[0].length;
  const total = weights ? weights.reduce((sum, w) => sum + w, 0) : n;
  const share = Float64Array.from({ length: n }, (_, k) => (weights ? weights[k] : 1) / total);
  return { n, dim, variance, mean: Float64Array.from(means.flat()), weights: share };
}

/** Write p(k | x) of one point, and return log q_σ(x). */
function shares(target, x, at, sigma, out) {
  const { n, dim, mean, weights, variance } = target;
  const width = variance + sigma * sigma;
  let highest = -Infinity;
  for (let k = 0; k < n; k++) {
    let square = 0;
    for (let i = 0; i < dim; i++) square += (x[at + i] - mean[k * dim + i]) ** 2;
    out[k] = Math.log(weights[k]) - square / (2 * width);
    if (out[k] > highest) highest = out[k];
  }
  let sum = 0;
  for (let k = 0; k < n; k++) sum += out[k] = Math.exp(out[k] - highest);
  for (let k = 0; k < n; k++) out[k] /= sum;
  return highest + Math.log(sum) - (dim / 2) * Math.log(2 * Math.PI * width);
}

/** Return log q_σ at each row of x. */
export function logDensity(target, x, sigma) {
  const share = new Float64Array(target.n);
  const rows = x.length / target.dim;
  return Float64Array.from({ length: rows }, (_, row) =>
    shares(target, x, row * target.dim, sigma, share),
  );
}

/** Return ∇ log q_σ at each row of x, in `out` if it is given. */
export function mixtureScore(target, x, sigma, out = new Float64Array(x.length)) {
  const { n, dim, mean } = target;
  const share = new Float64Array(n);
  const width = target.variance + sigma * sigma;
  for (let at = 0; at < x.length; at += dim) {
    shares(target, x, at, sigma, share);
    for (let i = 0; i < dim; i++) {
      let centre = 0;
      for (let k = 0; k < n; k++) centre += share[k] * mean[k * dim + i];
      out[at + i] = (centre - x[at + i]) / width;
    }
  }
  return out;
}

/** Return q_σ on a lattice: at (xs[i], ys[j]) in row j, column i; in one dimension at xs. */
export function densityOnLattice(target, sigma, xs, ys = [0]) {
  const { n, dim, mean, weights, variance } = target;
  const width = variance + sigma * sigma;
  const density = new Float64Array(xs.length * ys.length);
  const along = new Float64Array(xs.length);
  const gaussian = (gap) => Math.exp((-gap * gap) / (2 * width)) / Math.sqrt(2 * Math.PI * width);
  // a Gaussian is a product over the axes, which spares most of the exponentials
  for (let k = 0; k < n; k++) {
    for (let i = 0; i < xs.length; i++) along[i] = weights[k] * gaussian(xs[i] - mean[k * dim]);
    for (let j = 0; j < ys.length; j++) {
      const factor = dim === 1 ? 1 : gaussian(ys[j] - mean[k * dim + 1]);
      if (factor === 0) continue;
      for (let i = 0; i < xs.length; i++) density[j * xs.length + i] += factor * along[i];
    }
  }
  return density;
}

/** Return `count` samples of q_σ. */
export function sampleMixture(target, count, random, sigma = 0) {
  const { n, dim, mean, weights, variance } = target;
  const deviation = Math.sqrt(variance + sigma * sigma);
  const x = new Float64Array(count * dim);
  for (let row = 0; row < count; row++) {
    let rest = random.uniform();
    let k = 0;
    while (k < n - 1 && rest >= weights[k]) rest -= weights[k++];
    for (let i = 0; i < dim; i++) {
      x[row * dim + i] = mean[k * dim + i] + deviation * random.normal();
    }
  }
  return x;
}

/**
 * Run Langevin dynamics at one σ, in place, and yield after each step:
 *
 *     x ← x + α·s(x, σ) + √(2α)·z        or, by the paper's convention, with α/2 for α.
 */
export function* langevin(target, x, sigma, { alpha, steps, random, convention = "official" }) {
  const size = convention === "paper" ? alpha / 2 : alpha;
  const score = new Float64Array(x.length);
  for (let step = 0; step < steps; step++) {
    mixtureScore(target, x, sigma, score);
    for (let i = 0; i < x.length; i++) {
      x[i] += size * score[i] + Math.sqrt(2 * size) * random.normal();
    }
    yield { x, sigma };
  }
}

/** Run annealed Langevin dynamics down the levels, in place, and yield after each step. */
export function* annealedLangevin(target, x, sigmas, { epsilon, ...options }) {
  const last = sigmas[sigmas.length - 1];
  for (const sigma of sigmas) {
    yield* langevin(target, x, sigma, { ...options, alpha: epsilon * (sigma / last) ** 2 });
  }
}
