// The operations between 3 × 3 convolutions in a score network: norms, activations and pools.

#include <algorithm>
#include <cmath>
#include <omp.h>

#include "vectors.h"

static thread_local Scratch image_scratch, left_scratch, right_scratch;

// S sums over the pixels of an image for each channel; f(pixel, c, sums) adds one pixel's.
template <int S, class F> static void sums(int64_t pixels, int64_t padded, float* out, F f) {
    for (int64_t c = 0; c < padded; c += LANES) {
        vec all[S] = {};
        for (int64_t p = 0; p < pixels;) {
            vec part[4][S] = {};  // sums of sums round less, and four are independent
            const int64_t end = std::min(p + 64, pixels);
            for (; p + 4 <= end; p += 4)
                for (int i = 0; i < 4; i++) f(p + i, c, part[i]);
            for (; p < end; p++) f(p, c, part[0]);
            for (int s = 0; s < S; s++)
                all[s] += (part[0][s] + part[1][s]) + (part[2][s] + part[3][s]);
        }
        for (int s = 0; s < S; s++) store(out + s * padded + c, all[s]);
    }
}

// The mean over the pixels, and Σ(x − mean)², of the lanes from c on: 64 pixels at a time, which
// are still in the first cache for the deviations, then all together (Chan et al. 1983).
static void moments(const float* x, int64_t pixels, int64_t channels, int64_t c, float* mean,
                    float* squares) {
    vec all_mean{}, all_squares{};
    for (int64_t first = 0; first < pixels; first += 64) {
        const int64_t count = std::min<int64_t>(64, pixels - first);
        const float* from = x + first * channels;
        const auto total = [&](auto f) {  // four independent sums
            vec part[4] = {};
            int64_t p = 0;
            for (; p + 4 <= count; p += 4)
                for (int i = 0; i < 4; i++) part[i] += f(some(from + (p + i) * channels, c, channels));
            for (; p < count; p++) part[0] += f(some(from + p * channels, c, channels));
            return (part[0] + part[1]) + (part[2] + part[3]);
        };
        const vec here = total([](vec z) { return z; }) * (1.f / count);
        const vec spread = total([&](vec z) { return (z - here) * (z - here); });
        const vec gap = here - all_mean;
        all_mean += gap * (float(count) / (first + count));
        all_squares += spread + gap * gap * (float(first) * count / (first + count));
    }
    store(mean + c, all_mean);
    store(squares + c, all_squares);
}

// ── Norms: z = (x − mean)·scale + offset ────────────────────────────────────────────────────────

// InstanceNorm++: z = γ((x − μ)/σ + α·(μ − m)/v) + β, from μ in `mean` and Σ(x − μ)² in `inverse`.
static void norm_plus(const float* gamma, int64_t pixels, int64_t channels, float eps,
                      const float* mean, float* scale, float* offset, float* inverse) {
    double middle = 0, spread = 0;
    for (int64_t c = 0; c < channels; c++) middle += mean[c] / channels;
    for (int64_t c = 0; c < channels; c++) spread += (mean[c] - middle) * (mean[c] - middle);
    const double across = 1 / std::sqrt(spread / (channels - 1) + eps);
    for (int64_t c = 0; c < channels; c++) {
        inverse[c] = 1 / std::sqrt(inverse[c] / pixels + eps);
        scale[c] = gamma[c] * inverse[c];
        float shift = gamma[c + channels] * float((mean[c] - middle) * across);
        offset[c] = gamma[c] * shift + gamma[c + 2 * channels];
    }
}

// Group normalisation: z = γ(x − μ)/σ + β, with a group's μ and σ computed from its channels'.
static void norm_groups(const float* gamma, int64_t pixels, int64_t channels, int64_t groups,
                        float eps, float* mean, float* scale, float* offset, float* inverse) {
    const int64_t size = channels / groups;
    for (int64_t first = 0; first < channels; first += size) {
        double middle = 0, squares = 0;
        for (int64_t c = first; c < first + size; c++) middle += mean[c] / double(size);
        for (int64_t c = first; c < first + size; c++)
            squares += inverse[c] / double(pixels) + (mean[c] - middle) * (mean[c] - middle);
        const double over = 1 / std::sqrt(squares / size + eps);
        for (int64_t c = first; c < first + size; c++) {
            mean[c] = middle;
            inverse[c] = over;
            scale[c] = gamma[c] * over;
            offset[c] = gamma[c + channels];
        }
    }
}

// The norm of each image: with γ, α, β from its level's row of the table, or the only row; with groups
// of channels γ, β. False if a level is outside the table.
extern "C" bool statistics(const float* x, const float* table, const int64_t* level, float* norms,
                           int64_t n, int64_t pixels, int64_t channels, int64_t groups,
                           int64_t levels, float eps, int threads) {
    int64_t padded = round_up(channels, LANES);
    for (int64_t image = 0; level && image < n; image++)
        if (level[image] < 0 || level[image] >= levels) return false;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        const float* from = x + image * pixels * channels;
        const float* gamma = table + (level ? level[image] : 0) * (groups ? 2 : 3) * channels;
        float *mean = norms + image * 4 * padded, *scale = mean + padded, *offset = scale + padded;
        float* inverse = offset + padded;
        std::memset(scale, 0, 4 * 2 * padded);
        for (int64_t c = 0; c < padded; c += LANES) moments(from, pixels, channels, c, mean, inverse);
        if (groups) norm_groups(gamma, pixels, channels, groups, eps, mean, scale, offset, inverse);
        else norm_plus(gamma, pixels, channels, eps, mean, scale, offset, inverse);
    }
    return true;
}

// Backward from dz: dx = dz·scale + push − (x − μ)·along, and the gradients of γ, α, β, from the sums
// `once` = Σ dz and `twice` = Σ dz·(x − μ) over the pixels of each channel.
struct Pull {
    const float *gamma, *inverse, *once, *twice;
    float *push, *along, *dgamma;
};

static void pull_plus(const Norm& norm, const Pull& p, int64_t pixels, int64_t channels, float eps) {
    const float* alpha = p.gamma + channels;
    float *dalpha = p.dgamma + channels, *dbeta = dalpha + channels;
    double middle = 0, spread = 0, pull = 0, mean_push = 0;
    for (int64_t c = 0; c < channels; c++) middle += norm.mean[c] / channels;
    for (int64_t c = 0; c < channels; c++)
        spread += (norm.mean[c] - middle) * (norm.mean[c] - middle);
    const double across = 1 / std::sqrt(spread / (channels - 1) + eps);
    for (int64_t c = 0; c < channels; c++)
        pull += p.gamma[c] * alpha[c] * p.once[c] * (norm.mean[c] - middle);
    for (int64_t c = 0; c < channels; c++) {
        double gap = norm.mean[c] - middle, ds = p.gamma[c] * alpha[c] * p.once[c];
        p.push[c] = across * (ds - across * across * gap * pull / (channels - 1));
        mean_push += p.push[c] / channels;
        p.dgamma[c] = p.inverse[c] * p.twice[c] + alpha[c] * gap * across * p.once[c];
        dalpha[c] = p.gamma[c] * gap * across * p.once[c];
        dbeta[c] = p.once[c];
    }
    for (int64_t c = 0; c < channels; c++) {
        p.push[c] = (p.push[c] - mean_push - norm.scale[c] * p.once[c]) / pixels;
        p.along[c] = norm.scale[c] * p.inverse[c] * p.inverse[c] * p.twice[c] / pixels;
    }
}

static void pull_groups(const Pull& p, int64_t pixels, int64_t channels, int64_t groups) {
    const int64_t size = channels / groups;
    for (int64_t first = 0; first < channels; first += size) {
        double one = 0, two = 0;
        const double over = p.inverse[first];
        for (int64_t c = first; c < first + size; c++) {
            one += p.gamma[c] * over * p.once[c] / (size * pixels);
            two += p.gamma[c] * over * p.twice[c] / (size * pixels);
        }
        for (int64_t c = first; c < first + size; c++) {
            p.push[c] = -one;
            p.along[c] = over * over * two;
            p.dgamma[c] = over * p.twice[c];
            p.dgamma[c + channels] = p.once[c];
        }
    }
}

// From the gradient by f(norm(x)), those by x and by each image's row of the table; norms may be null.
extern "C" void normalize_backward(const float* da, const float* x, const float* norms, int function,
                                   const float* table, const int64_t* level, float* dx, float* dtable,
                                   int64_t n, int64_t pixels, int64_t channels, int64_t groups,
                                   float eps, int threads) {
    int64_t padded = round_up(channels, LANES), row = (groups ? 2 : 3) * channels;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        const int64_t start = image * pixels * channels;
        float *sum = right_scratch.get(4 * padded), *along = sum + 2 * padded, *push = sum + 3 * padded;
        Norm norm(norms, image, padded);
        // store dz in dx for now; sum dz and dz·(x − μ)
        sums<2>(pixels, padded, sum, [&](int64_t p, int64_t c, vec* part) {
            const int64_t at = start + p * channels;
            vec here = some(x + at, c, channels), dz = some(da + at, c, channels);
            if (function) dz *= slope(function, norm(here, c));
            put(dx + at, c, channels, dz);
            part[0] += dz;
            if (norms) part[1] += dz * (here - load(norm.mean + c));
        });
        if (!norms) continue;
        const Pull pull{table + (level ? level[image] : 0) * row, norm.offset + padded, sum,
                        sum + padded, push, along, dtable + image * row};
        std::memset(along, 0, 4 * 2 * padded);
        if (groups) pull_groups(pull, pixels, channels, groups);
        else pull_plus(norm, pull, pixels, channels, eps);
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < padded; c += LANES) {
                const int64_t at = start + p * channels;
                vec gap = some(x + at, c, channels) - load(norm.mean + c);
                vec dz = some(dx + at, c, channels);
                put(dx + at, c, channels, dz * load(norm.scale + c) + load(push + c) - gap * load(along + c));
            }
    }
}

// f(norm(x)).
extern "C" void activate(const float* x, const float* norms, int function, float* out, int64_t n,
                         int64_t pixels, int64_t channels, int threads) {
    int64_t padded = round_up(channels, LANES);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n * pixels; i++) {
        Norm norm(norms, i / pixels, padded);
        for (int64_t c = 0; c < padded; c += LANES) {
            vec z = norm(some(x + i * channels, c, channels), c);
            put(out + i * channels, c, channels, activation(function, z));
        }
    }
}

// ── Pools ───────────────────────────────────────────────────────────────────────────────────────

// The mean over 5 × 5 pixels of norm(x), zeros outside; its own adjoint where there is no norm.
extern "C" void box(const float* x, const float* norms, float* out, int64_t n, int64_t height,
                    int64_t width, int64_t channels, int threads) {
    int64_t padded = round_up(channels, LANES), line = width * padded;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        Norm norm(norms, image, padded);
        float *here = image_scratch.get((width + 4) * padded), *across = left_scratch.get(5 * line);
        std::memset(here, 0, 4 * (width + 4) * padded);
        std::memset(across, 0, 4 * 5 * line);
        // sums over columns y - 2 ... y + 2 of the sums along rows, kept in a ring of five
        for (int64_t y = 0; y < height + 2; y++) {
            float* last = across + y % 5 * line;
            const float* from = x + (image * height + y) * width * channels;
            for (int64_t i = 0; y < height && i < width; i++)
                for (int64_t c = 0; c < padded; c += LANES)
                    store(here + (i + 2) * padded + c, norm(some(from + i * channels, c, channels), c));
            for (int64_t i = 0; i < line; i += LANES) {
                const float* p = here + i;
                vec row = load(p) + load(p + padded) + load(p + 2 * padded) + load(p + 3 * padded) +
                          load(p + 4 * padded);
                store(last + i, y < height ? row : vec{});
            }
            for (int64_t i = 0; y >= 2 && i < width; i++)
                for (int64_t c = 0; c < padded; c += LANES) {
                    const float* p = across + i * padded + c;
                    vec all = load(p) + load(p + line) + load(p + 2 * line) + load(p + 3 * line) +
                              load(p + 4 * line);
                    put(out + ((image * height + y - 2) * width + i) * channels, c, channels, all * 0.04f);
                }
        }
    }
}

// The larger; NaN if one of them is, as in torch.
static inline vec larger(vec a, vec b) { return (b > a) | (b != b) ? b : a; }

// The maximum of the 5 × 5 pixels around each pixel.
extern "C" void max_pool(const float* x, float* out, int64_t n, int64_t height, int64_t width,
                        int64_t channels, int threads) {
    int64_t padded = round_up(channels, LANES), line = width * channels;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        float* across = image_scratch.get(height * width * padded);
        const float* from = x + image * height * line;
        for (int64_t i = 0; i < height * width; i++)
            for (int64_t c = 0; c < padded; c += LANES) {
                vec most = some(from + i * channels, c, channels);
                int64_t last = std::min(i % width + 2, width - 1) - i % width;
                for (int64_t j = -std::min<int64_t>(2, i % width); j <= last; j++) {
                    vec other = some(from + (i + j) * channels, c, channels);
                    most = larger(most, other);
                }
                store(across + i * padded + c, most);
            }
        for (int64_t i = 0; i < height * width; i++)
            for (int64_t c = 0; c < padded; c += LANES) {
                vec most = load(across + i * padded + c);
                int64_t y = i / width, last = std::min(y + 2, height - 1) - y;
                for (int64_t j = -std::min<int64_t>(2, y); j <= last; j++) {
                    vec other = load(across + (i + j * width) * padded + c);
                    most = larger(most, other);
                }
                put(out + (image * height * width + i) * channels, c, channels, most);
            }
    }
}

// Add each dy to dx, which starts at zero, at the first pixel that equals the maximum y.
extern "C" void max_pool_backward(const float* x, const float* y, const float* dy, float* dx, int64_t n,
                                 int64_t height, int64_t width, int64_t channels, int threads) {
    int64_t padded = round_up(channels, LANES);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++)
        for (int64_t i = 0; i < height * width; i++)
            for (int64_t c = 0; c < padded; c += LANES) {
                const int64_t start = image * height * width, middle = (start + i) * channels;
                vec most = some(y + middle, c, channels), left = some(dy + middle, c, channels);
                int64_t row = i / width, column = i % width;
                for (int64_t r = std::max<int64_t>(row - 2, 0); r <= std::min(row + 2, height - 1); r++)
                    for (int64_t k = std::max<int64_t>(column - 2, 0);
                         k <= std::min(column + 2, width - 1); k++) {
                        const int64_t at = (start + r * width + k) * channels;
                        const vec here = some(x + at, c, channels);
                        ints hit = (here == most) | ((here != here) & (most != most));
                        put(dx + at, c, channels, some(dx + at, c, channels) + (hit ? left : vec{}));
                        left = hit ? vec{} : left;
                    }
            }
}
