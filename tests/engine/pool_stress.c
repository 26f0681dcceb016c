// Runs of random phases on the kernels' thread pool: `pool_stress THREADS RUNS` ends with 1 if a chunk
// was not done exactly once. Built with ThreadSanitizer, it finds what threads do unordered.
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PHASES = 12, CHUNKS = 40 };

static int done[PHASES][CHUNKS];

static void work(void *context, const void *argument, int chunk, int thread)
{
    const int phase = *(const int *)argument;
    volatile int sum = 0;
    for (int i = 0; i < chunk * 7 % 13 * 20; i++) sum += i;  // some chunks take longer than others
    done[phase][chunk]++;
    (void)context, (void)thread;
}

int main(int count, char **arguments)
{
    if (count != 3) return 2;
    pool *p = pool_create(atoi(arguments[1]));
    unsigned draw = 1;
    for (int run = 0; run < atoi(arguments[2]); run++) {
        phase phases[PHASES];
        int numbers[PHASES];
        const int used = 1 + rand_r(&draw) % PHASES;
        memset(done, 0, sizeof done);
        for (int i = 0; i < used; i++) {
            numbers[i] = i;
            phases[i] = (phase){work, numbers + i, rand_r(&draw) % (rand_r(&draw) % 3 ? CHUNKS : 3)};
        }
        pool_run(p, NULL, phases, used);
        for (int i = 0; i < used; i++)
            for (int chunk = 0; chunk < phases[i].chunks; chunk++)
                if (done[i][chunk] != 1) {
                    printf("run %d, phase %d: chunk %d was done %d times\n", run, i, chunk, done[i][chunk]);
                    return 1;
                }
    }
    pool_destroy(p);
    return 0;
}
