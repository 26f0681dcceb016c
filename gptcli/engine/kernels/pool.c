// Threads that share the chunks of a phase, and go on to the next when all chunks are done.
//
// Each thread begins with a share of neighbouring chunks, so that it reads weights in order, and then
// takes from the others' shares. Nobody waits for a thread, only for chunks: one that the system does
// not let run holds up no more than the chunk that it has begun. Who finishes the last chunk opens the
// next phase. Waiting spins for about as long as a token is sampled, then sleeps.
#include "engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SPINS = 5000 };

// The chunks of a phase that a thread begins with, side by side in memory. One word, so that a chunk is
// claimed together with its phase: number of the phase (24 bits), end (20 bits), the next one (20 bits).
typedef struct {
    _Alignas(64) _Atomic uint64_t ticket;
} share;

struct pool {
    int threads;
    pid_t owner;  // a forked child has the memory, but not the threads
    pthread_t *handles;
    share *shares;  // of each thread; one that is done with its own takes from the others
    const phase *current, *last;
    void *context;
    _Atomic int done;  // chunks of the phase
    _Atomic int sleepers;
    _Atomic int ended;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

typedef struct {
    pool *pool;
    int thread;
} worker;

static int next_of(uint64_t ticket) { return (int)(ticket & 0xfffff); }
static int end_of(uint64_t ticket) { return (int)(ticket >> 20 & 0xfffff); }
static uint64_t number_of(uint64_t ticket) { return ticket >> 40; }

static void rest(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Whatever else runs in this process may have let subnormals become zeros, or changed the rounding.
static unsigned long plain_arithmetic(void)
{
    unsigned long before = 0;
#if defined(__x86_64__)
    before = _mm_getcsr();
    _mm_setcsr(0x1f80);
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(0ul));
#endif
    return before;
}

static void restore_arithmetic(unsigned long before)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#endif
    (void)before;
}

// Opens a phase of so many chunks, 0 at the end of a run. The first share is never empty in a phase, and
// is stored last: until then nobody can complete the phase, nor can the caller see that a run is over.
static void publish(pool *p, int chunks)
{
    const uint64_t number = number_of(atomic_load(&p->shares[0].ticket)) + 1;
    for (int t = p->threads - 1; t >= 0; t--) {
        const uint64_t next = (uint64_t)first_chunk(chunks, p->threads, t);
        const uint64_t end = (uint64_t)first_chunk(chunks, p->threads, t + 1);
        atomic_store(&p->shares[t].ticket, number << 40 | end << 20 | next);
    }
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
}

// Opens the first phase from `next` on that has work for several threads; does the others here.
static void advance(pool *p, const phase *next, int thread)
{
    for (; next != p->last && next->chunks < 2; next++)
        if (next->chunks) next->work(p->context, next->argument, 0, thread);
    p->current = next;
    atomic_store(&p->done, 0);
    publish(p, next == p->last ? 0 : next->chunks);  // after the last, the caller may go on at once
}

static void wait_for_change(pool *p, int thread, uint64_t number)
{
    _Atomic uint64_t *ticket = &p->shares[thread].ticket;
    for (int n = 0; n < SPINS; n++) {
        if (number_of(atomic_load(ticket)) != number) return;
        rest();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (number_of(atomic_load(ticket)) == number && !atomic_load(&p->ended))
        pthread_cond_wait(&p->changed, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

// A chunk of the thread's own share or, once that is done, of another's; -1: none is left.
static int claim(pool *p, int thread)
{
    for (int n = 0; n < p->threads; n++) {
        _Atomic uint64_t *ticket = &p->shares[(thread + n) % p->threads].ticket;
        uint64_t found = atomic_load(ticket);
        if (next_of(found) >= end_of(found)) continue;
        found = atomic_fetch_add(ticket, 1);
        if (next_of(found) < end_of(found)) return next_of(found);
    }
    return -1;
}

// Until the run is finished (thread 0, the caller's) or the pool ends (the others).
static void help(pool *p, int thread)
{
    while (!atomic_load(&p->ended)) {
        const uint64_t own = atomic_load(&p->shares[thread].ticket);
        if (thread == 0 && !end_of(own)) return;
        const int chunk = claim(p, thread);
        if (chunk < 0) {
            wait_for_change(p, thread, number_of(own));
            continue;
        }
        const phase *now = p->current;
        const int chunks = now->chunks;  // once this one is done, another thread may end the run
        now->work(p->context, now->argument, chunk, thread);
        if (atomic_fetch_add(&p->done, 1) + 1 == chunks) advance(p, now + 1, thread);
    }
}

static void *begin(void *argument)
{
    worker self = *(worker *)argument;
    free(argument);
    plain_arithmetic();
    pthread_mutex_lock(&self.pool->lock);  // until it is known how many threads there are
    pthread_mutex_unlock(&self.pool->lock);
    help(self.pool, self.thread);
    return NULL;
}

static void start(pool *p)
{
    sigset_t all, before;
    p->owner = getpid();
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    atomic_store(&p->sleepers, 0);
    publish(p, 0);
    pthread_mutex_lock(&p->lock);
    sigfillset(&all);  // signals are for the thread that calls
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int n = 1; n < p->threads; n++) {
        worker *w = malloc(sizeof *w);
        if (w) *w = (worker){p, n};
        if (!w || pthread_create(&p->handles[n], NULL, begin, w)) {
            free(w);
            p->threads = n;  // the work is shared by fewer
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&p->lock);
}

pool *pool_create(int threads)
{
    pool *p = calloc(1, sizeof *p);
    pthread_t *handles = calloc((size_t)threads, sizeof *handles);
    share *shares = aligned_alloc(64, (size_t)threads * sizeof *shares);
    if (!p || !handles || !shares) {
        free(p);
        free(handles);
        free(shares);
        return NULL;
    }
    memset(shares, 0, (size_t)threads * sizeof *shares);
    p->threads = threads;
    p->handles = handles;
    p->shares = shares;
    start(p);
    return p;
}

void pool_destroy(pool *p)
{
    if (p->owner == getpid()) {
        pthread_mutex_lock(&p->lock);
        atomic_store(&p->ended, 1);
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
        publish(p, 0);
        for (int n = 1; n < p->threads; n++) pthread_join(p->handles[n], NULL);
        pthread_mutex_destroy(&p->lock);
        pthread_cond_destroy(&p->changed);
    }
    free(p->handles);
    free(p->shares);
    free(p);
}

int pool_threads(const pool *p) { return p->threads; }

// All phases, one after the other. One call at a time: the caller sees to that.
void pool_run(pool *p, void *context, const phase *phases, int count)
{
    if (p->owner != getpid()) start(p);
    unsigned long before = plain_arithmetic();
    p->context = context;
    p->last = phases + count;
    advance(p, phases, 0);
    help(p, 0);
    restore_arithmetic(before);
}
