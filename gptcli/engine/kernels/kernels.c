// All kernels for one instruction set: built once for each, with -DBUILD_name and its flags.
#if defined(BUILD_avx2)
#define LANES 8
#elif defined(BUILD_avx512) || defined(BUILD_vnni) || defined(BUILD_amx)
#define LANES 16
#else
#define LANES 4
#endif

#include "prepare.h"
#include "step.h"
#include "supported.h"

#define JOIN(a, b) a##b
#define NAMED(build) JOIN(kernels_, build)
#define TEXT_OF(build) #build
#define TEXT(build) TEXT_OF(build)

// For tests: exp (-1), erf (-2) or an activation of `count` numbers.
static void apply(int function, const float *from, float *to, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES) {
        vf x = load_some(F32, from, i, count - i);
        vf y = function == -1 ? vexp(x) : function == -2 ? verf(x) : activate(function, x);
        memcpy(to + i, &y, 4 * (size_t)(count - i < LANES ? count - i : LANES));
    }
}

const kernels NAMED(BUILD) = {TEXT(BUILD), supported, step, transpose, quantize, pack, read_memory, apply};
