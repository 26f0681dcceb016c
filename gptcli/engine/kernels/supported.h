// Whether this processor, and the system on it, runs the build at hand.
#ifndef GPTCLI_SUPPORTED_H
#define GPTCLI_SUPPORTED_H

#if defined(BUILD_amx) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static int supported(void)
{
    unsigned a, b, c, d;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw")) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3) return 0;  // AMX-TILE, AMX-INT8
    return !syscall(SYS_arch_prctl, 0x1023, 18);  // ask the kernel for the tiles' state
}
#elif defined(BUILD_vnni)
static int supported(void) { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }
#elif defined(BUILD_avx512)
static int supported(void) { return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }
#elif defined(BUILD_avx2)
static int supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#elif defined(BUILD_neondot) && defined(__linux__)
#include <sys/auxv.h>
static int supported(void) { return getauxval(AT_HWCAP) >> 20 & 1; }  // HWCAP_ASIMDDP
#elif defined(BUILD_amx)
static int supported(void) { return 0; }
#else  // plain C; NEON is part of AArch64; every Apple processor has the dot product
static int supported(void) { return 1; }
#endif

#endif
