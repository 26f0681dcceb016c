// exp, erf and the activations: polynomials of our own, because a C library's differ by system.
#ifndef GPTCLI_VMATH_H
#define GPTCLI_VMATH_H

#include "simd.h"

INLINE vf power_of_2(vi n) { return (vf)((n + 127) << 23); }  // n from -126 to 127

// e^x, within one unit in the last place or so; 0 below -104, infinite above 89, NaN of NaN.
// x = n ln 2 + r; e^r = 1 + r + r^2 p(r), p fitted to the smallest relative error on |r| <= ln 2 / 2.
INLINE vf vexp(vf x)
{
    const vf magic = set(0x1.8p23f);  // what is added to it is rounded to whole numbers
    x = choose(x < -150.0f, set(-150.0f), choose(x > 150.0f, set(150.0f), x));
    vf shifted = fma_(x, set(0x1.715476p0f), magic), n = shifted - magic;
    vf r = fma_(n, set(-0x1.62e4p-1f), x);  // ln 2 in two parts: the first times n is exact
    r = fma_(n, set(-0x1.7f7d1cp-20f), r);
    vf p = fma_(set(0.0013813143f), r, set(0.0083694197f));
    p = fma_(p, r, set(0.041668456f));
    p = fma_(p, r, set(0.16666515f));
    p = fma_(p, r, set(0.49999994f));
    vf e = fma_(p, r * r, r) + 1.0f;
    vi whole = (vi)shifted - (vi)magic, half = whole >> 1;
    return e * power_of_2(half) * power_of_2(whole - half);  // in two steps: it may be subnormal
}

// Within 2e-7. Below 1 an odd polynomial, from there on 1 - e^(-|x| q(|x|)).
INLINE vf verf(vf x)
{
    vf a = choose(x < 0.0f, -x, x), s = x * x;
    vf p = fma_(set(7.64779e-5f), s, set(-0.0007942586f));
    p = fma_(p, s, set(0.00517978f));
    p = fma_(p, s, set(-0.02684861f));
    p = fma_(p, s, set(0.1128343f));
    p = fma_(p, s, set(-0.37612605f));
    p = fma_(p, s, set(1.1283791f));
    vf t = choose(a > 4.0f, set(4.0f), a);
    vf q = fma_(set(-0.00021018328f), t, set(0.0031831267f));
    q = fma_(q, t, set(-0.022786116f));
    q = fma_(q, t, set(0.10509671f));
    q = fma_(q, t, set(0.6358464f));
    q = fma_(q, t, set(1.1284755f));
    vf far = 1.0f - vexp(-t * q);
    return choose(a < 1.0f, p * x, choose(x < 0.0f, -far, choose(x > 0.0f, far, x)));
}

INLINE vf activate(int function, vf x)
{
    switch (function) {
    case GELU_TANH: {  // x / 2 (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
        vf cubic = fma_(x * x * x, set(0.044715f), x);
        return x / (1.0f + vexp(cubic * -1.5957691f));
    }
    case GELU_ERF: return x * 0.5f * (1.0f + verf(x * 0.70710678f));
    case RELU: return choose(x < 0.0f, set(0.0f), x);
    case SILU: return x / (1.0f + vexp(-x));
    case QUICK_GELU: return x / (1.0f + vexp(x * -1.702f));
    default: return x;
    }
}

#endif
