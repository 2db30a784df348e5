// Vectors of floats and operations on each pixel's channels, shared by the kernels.
//
// Images are (n, height, width, channels), so that a vector register holds neighbouring channels.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec v) { *(vec*)p = v; }
static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Scratch memory of a thread, kept between calls: page faults cost more than the work.
struct Scratch {
    float* at = nullptr;
    int64_t size = 0;
    float* get(int64_t wanted) {
        if (wanted > size) {
            std::free(at);
            at = (float*)std::aligned_alloc(64, round_up(wanted * 4, 64));
            if (!at) std::fputs("scorefield's kernels: out of memory\n", stderr), std::abort();
            size = wanted;
        }
        return at;
    }
    ~Scratch() { std::free(at); }
};

// ── Activations ─────────────────────────────────────────────────────────────────────────────────

// exp(z) = s + s·p for z ≤ 0: s = 2ⁿ, p = eʳ − 1.
struct Power {
    vec s, p;
    explicit Power(vec z) {
        const vec least = vec{} - 87.f, half = vec{} + 12582912.f;  // 1.5·2²³: adding it rounds
        vec low = z < least ? least : z;
        vec n = low * 1.44269504f + half;
        vec r = low - (n - half) * 0.693359375f + (n - half) * 2.12194440e-4f;
        p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * r * r + r;
        ints power = ((ints)n << 23) + 0x3f800000;
        s = (vec)power;
    }
};

// exp(z) − 1 for z ≤ 0 and z for z > 0.
static inline vec elu(vec z) {
    const Power e(z > 0.f ? vec{} : z);
    return z > 0.f ? z : e.s * e.p + (e.s - 1.f);
}

static inline vec sigmoid(vec z) {
    const Power e(z > 0.f ? -z : z);
    const vec small = e.s * e.p + e.s, large = 1.f / (small + 1.f);
    return z > 0.f ? large : small * large;
}

enum Function : int { SAME, ELU, SILU };

static inline vec activation(int function, vec z) {
    return function == ELU ? elu(z) : function == SILU ? z * sigmoid(z) : z;
}

static inline vec slope(int function, vec z) {
    const vec one = vec{} + 1.f;
    if (function == ELU) {
        const vec a = elu(z);
        return a > 0.f ? one : a + 1.f;
    }
    const vec s = sigmoid(z);
    return function == SILU ? s * (z * (1.f - s) + 1.f) : one;
}

// mean, scale, offset and 1/deviation of the channels of one image, each of round_up(channels)
struct Norm {
    const float *mean, *scale, *offset;
    Norm(const float* all, int64_t n, int64_t c)
        : mean(all ? all + 4 * n * c : nullptr), scale(all ? mean + c : nullptr),
          offset(all ? scale + c : nullptr) {}
    inline vec operator()(vec x, int64_t c) const {
        return mean ? (x - load(mean + c)) * load(scale + c) + load(offset + c) : x;
    }
};

// The lanes of x from c on, with zeros after the last.
static inline vec some(const float* x, int64_t c, int64_t channels) {
    if (c + LANES <= channels) return load(x + c);
    vec v{};
    std::memcpy(&v, x + c, 4 * std::max<int64_t>(channels - c, 0));
    return v;
}

static inline void put(float* x, int64_t c, int64_t channels, vec v) {
    if (c + LANES <= channels) store(x + c, v);
    else std::memcpy(x + c, &v, 4 * (channels - c));
}
