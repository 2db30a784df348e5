// What stands between 3 × 3 convolutions in a score network: norms, activations and pools.

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
            vec part[4][S] = {};  // sums of sums lose fewer digits, and four need not wait for each other
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

// The mean over the pixels, and Σ(x − mean)², of the lanes from c on: of 64 pixels at a time, which
// the first cache still has when their deviations are taken, and then of all (Chan et al. 1983).
static void moments(const float* x, int64_t pixels, int64_t channels, int64_t c, float* mean,
                    float* squares) {
    vec all_mean{}, all_squares{};
    for (int64_t first = 0; first < pixels; first += 64) {
        const int64_t count = std::min<int64_t>(64, pixels - first);
        const float* from = x + first * channels;
        const auto total = [&](auto f) {  // four need not wait for each other
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

// InstanceNorm++ as a mean, scale and offset: z = γ((x − μ)/σ + α·(μ − m)/v) + β. A row of the table
// holds γ, α, β of a level; without levels there is one. False if a level is beyond the table.
extern "C" bool statistics(const float* x, const float* table, const int64_t* level, float* norms,
                           int64_t n, int64_t pixels, int64_t channels, int64_t levels, float eps,
                           int threads) {
    int64_t padded = round_up(channels, LANES);
    for (int64_t image = 0; level && image < n; image++)
        if (level[image] < 0 || level[image] >= levels) return false;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        const float* from = x + image * pixels * channels;
        const float* gamma = table + (level ? level[image] : 0) * 3 * channels;
        float *mean = norms + image * 4 * padded, *scale = mean + padded, *offset = scale + padded;
        float* inverse = offset + padded;
        for (int64_t c = 0; c < padded; c += LANES) moments(from, pixels, channels, c, mean, inverse);
        double middle = 0, spread = 0;
        for (int64_t c = 0; c < channels; c++) middle += mean[c] / channels;
        for (int64_t c = 0; c < channels; c++) spread += (mean[c] - middle) * (mean[c] - middle);
        double across = 1 / std::sqrt(spread / (channels - 1) + eps);
        for (int64_t c = 0; c < padded; c++) {
            bool real = c < channels;
            inverse[c] = 1 / std::sqrt(inverse[c] / pixels + eps);
            scale[c] = real ? gamma[c] * inverse[c] : 0;
            float shift = real ? gamma[c + channels] * float((mean[c] - middle) * across) : 0;
            offset[c] = real ? gamma[c] * shift + gamma[c + 2 * channels] : 0;
        }
    }
    return true;
}

// From the gradient by f(norm(x)) those by x and by each image's γ, α, β; norms may be null.
extern "C" void normalize_backward(const float* da, const float* x, const float* norms, bool function,
                                   const float* table, const int64_t* level, float* dx, float* dtable,
                                   int64_t n, int64_t pixels, int64_t channels, float eps,
                                   int threads) {
    int64_t padded = round_up(channels, LANES);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < n; image++) {
        const int64_t start = image * pixels * channels;
        float* sum = right_scratch.get(4 * padded);
        Norm norm(norms, image, padded);
        const vec one = vec{} + 1.f;
        // dz to dx for now, Σ dz and Σ dz·(x − μ)
        sums<2>(pixels, padded, sum, [&](int64_t p, int64_t c, vec* part) {
            const int64_t at = start + p * channels;
            vec here = some(x + at, c, channels), dz = some(da + at, c, channels);
            if (function) {
                vec a = elu(norm(here, c));
                dz *= a > 0.f ? one : a + 1.f;
            }
            put(dx + at, c, channels, dz);
            part[0] += dz;
            if (norms) part[1] += dz * (here - load(norm.mean + c));
        });
        if (!norms) continue;
        const float* gamma = table + (level ? level[image] : 0) * 3 * channels;
        const float *alpha = gamma + channels, *inverse = norm.offset + padded;
        float *dgamma = dtable + image * 3 * channels, *dalpha = dgamma + channels;
        float *along = sum + 2 * padded, *push = sum + 3 * padded;
        double middle = 0, spread = 0, pull = 0, mean_push = 0;
        for (int64_t c = 0; c < channels; c++) middle += norm.mean[c] / channels;
        for (int64_t c = 0; c < channels; c++)
            spread += (norm.mean[c] - middle) * (norm.mean[c] - middle);
        const double across = 1 / std::sqrt(spread / (channels - 1) + eps);
        for (int64_t c = 0; c < channels; c++)
            pull += gamma[c] * alpha[c] * sum[c] * (norm.mean[c] - middle);
        for (int64_t c = 0; c < channels; c++) {
            double gap = norm.mean[c] - middle, ds = gamma[c] * alpha[c] * sum[c];
            push[c] = across * (ds - across * across * gap * pull / (channels - 1));
            mean_push += push[c] / channels;
            dgamma[c] = inverse[c] * sum[padded + c] + alpha[c] * gap * across * sum[c];
            dalpha[c] = gamma[c] * gap * across * sum[c];
            dalpha[c + channels] = sum[c];
        }
        for (int64_t c = 0; c < padded; c++) {
            push[c] = c < channels ? (push[c] - mean_push - norm.scale[c] * sum[c]) / pixels : 0;
            along[c] = norm.scale[c] * inverse[c] * inverse[c] * sum[padded + c] / pixels;
        }
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < padded; c += LANES) {
                const int64_t at = start + p * channels;
                vec gap = some(x + at, c, channels) - load(norm.mean + c);
                vec dz = some(dx + at, c, channels);
                put(dx + at, c, channels, dz * load(norm.scale + c) + load(push + c) - gap * load(along + c));
            }
    }
}

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

extern "C" void activate(const float* x, float* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += LANES) put(out, i, count, elu(some(x, i, count)));
}

// The larger; NaN if one of them is, as torch has it.
static inline vec larger(vec a, vec b) { return (b > a) | (b != b) ? b : a; }

// The maximum of the 5 × 5 pixels around each.
extern "C" void largest(const float* x, float* out, int64_t n, int64_t height, int64_t width,
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

// dx, zeros before: each dy goes to the first of the pixels that are as large as the maximum y.
extern "C" void largest_backward(const float* x, const float* y, const float* dy, float* dx, int64_t n,
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
