// The plane's settings: what the address has of them, and what each job takes.

export const TARGETS = [
  ["modes", "Two modes (Figure 3)"], ["circle", "Eight modes on a circle"],
  ["checkerboard", "Checkerboard"], ["rings", "Rings"], ["spirals", "Spirals"],
  ["points", "Draw your own"],
];
export const SAMPLERS = [
  ["langevin", "Langevin, plain"], ["annealed_langevin", "Langevin, annealed"],
  ["underdamped", "Langevin, underdamped"], ["consistent", "Consistent annealed"],
  ["euler", "Euler (DDIM)"], ["heun", "Heun"], ["ancestral", "Ancestral"],
  ["reverse_diffusion", "Reverse diffusion"], ["churn", "Churn"], ["dpm_solver", "DPM-Solver++"],
  ["dpm_solver_sde", "DPM-Solver++ SDE"], ["dpm_solver_3", "DPM-Solver++ 3M"], ["unipc", "UniPC"],
  ["adams_bashforth", "Adams–Bashforth"], ["predictor_corrector", "Predictor–corrector"],
  ["adaptive", "Adaptive"],
];
const CHOICES = {
  target: TARGETS.map(([name]) => name), first: SAMPLERS.map(([name]) => name),
  second: SAMPLERS.map(([name]) => name), start: ["square", "prior"],
  convention: ["paper", "official"], second_score: ["exact", "network"],
};
const ABOVE_ZERO = ["sigma", "spread"]; // of logarithmic sliders
const LADDERED = ["langevin", "annealed_langevin", "underdamped"];
const SAMPLER_STEPS = 18;
const DEFAULTS = {
  target: "modes", points: [], spread: 0.5, sigma: 1,
  n: 1280, seed: 0, start: "square", ladder: [], epsilon: 0.1, convention: "paper",
  first: "langevin", first_steps: 300, second: "annealed_langevin", second_steps: 300,
  second_score: "exact", iterations: 1000, trained: 0, time: null, speed: 1,
  follow: 1, // 0 as the fields are at the slider's σ, not at that of the particles
};

/** Return true for samplers that take steps at each level of the ladder. */
export const isLaddered = (sampler) => LADDERED.includes(sampler);

/** Return the steps that suit a sampler, where those at a level of the ladder are known. */
export const usualSteps = (sampler, atLevel) => (isLaddered(sampler) ? atLevel : SAMPLER_STEPS);

/** Return the setting that a text of the address means, or undefined if it means none. */
function readText(name, text) {
  if (CHOICES[name]) return CHOICES[name].includes(text) ? text : undefined;
  const numbers = text.split(",").map(Number);
  if (!numbers.every(Number.isFinite)) return undefined;
  if (name === "ladder") return isLadder(numbers) ? numbers : undefined;
  if (name === "points") return numbers;
  const [number, ...more] = numbers;
  return more.length || (ABOVE_ZERO.includes(name) && number <= 0) ? undefined : number;
}

const isLadder = (levels) => levels.length >= 2
  && levels.every((level, i) => level > 0 && (i === 0 || level < levels[i - 1]));

/** Return the settings, those that the address has, and `change`, which keeps a patch of them there. */
export function makeSettings(state, setState) {
  const own = Object.entries(state).filter(([name]) => name in DEFAULTS);
  const read = own.map(([name, text]) => [name, readText(name, text)]);
  const addressed = Object.fromEntries(read.filter(([, value]) => value !== undefined));
  const values = { ...structuredClone(DEFAULTS), ...addressed };
  const pick = (...names) => Object.fromEntries(names.map((name) => [name, values[name]]));

  function change(patch) {
    Object.assign(values, patch);
    const texts = Object.entries(patch).map(([name, value]) => {
      const text = Array.isArray(value) ? value.join(",") : value;
      return [name, String(text) === String(DEFAULTS[name]) ? null : text];
    });
    setState(Object.fromEntries(texts));
  }

  const target = () => pick("target", "points", "spread");
  const chain = () => ({ ...target(), ...pick("n", "seed", "ladder", "epsilon", "convention") });
  const sampling = () => ({
    ...chain(),
    ...pick("start", "first", "first_steps", "second", "second_steps", "second_score"),
    ...(values.second_score === "network" ? pick("iterations") : {}),
  });
  const laddered = () => ["second", "first"].find((side) => isLaddered(values[side])) ?? "second";
  const diagnosis = () => ({ ...chain(), steps: values[`${laddered()}_steps`] });
  const training = () => {
    const [highest, lowest] = [values.ladder[0], values.ladder.at(-1)];
    const sigma = Math.min(highest, Math.max(lowest, values.sigma));
    return { ...target(), ...pick("iterations"), sigma, sigma_max: highest, sigma_min: lowest };
  };
  return { values, addressed, change, target, sampling, diagnosis, training };
}
