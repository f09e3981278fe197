/* Owns what tests of scorers with children share: a folder with a scorer whose behaviour each
 * completion chooses, the configuration around it, and looking whether a process is still there.
 * Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_REWARD_SCORE_BENCH_H
#define HONE_TESTS_UNIT_REWARD_SCORE_BENCH_H

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "configs/config.h"
#include "reward/scoring.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BENCH_PATH_ROOM 512

/* "value 0.5", "null", "object {...}": that score. The others misbehave. Every start appends the
 * process id to the file "pids". */
static const char bench_scorer[] =
    "import json, os, signal, subprocess, sys, time\n"
    "open('pids', 'a').write('%d\\n' % os.getpid())\n"
    "out = sys.stdout\n"
    "def say(text):\n"
    "    out.write(text + '\\n')\n"
    "    out.flush()\n"
    "def score(sample):\n"
    "    word, _, rest = sample['completion'].partition(' ')\n"
    "    if word == 'value': return float(rest)\n"
    "    if word == 'null': return None\n"
    "    if word == 'json': return json.loads(rest)\n"
    "    if word == 'sample': return {'v': 1, 'detail': {'sample': sample}}\n"
    "    if word == 'env': return {'v': 1, 'detail': {'env': sorted(os.environ), 'cwd': "
    "os.getcwd()}}\n"
    "    if word == 'long': return {'v': 1, 'detail': {'text': 'x' * 20000}}\n"
    "    if word == 'nan': return float('nan')\n"
    "    if word == 'sleep': time.sleep(1000)\n"
    "    if word == 'nap': time.sleep(0.1); return 1\n"
    "    if word == 'exit': sys.stderr.write('about to fall\\n'); sys.stderr.flush(); os._exit(3)\n"
    "    if word == 'stubborn':\n"
    "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "        time.sleep(1000)\n"
    "    if word == 'family':\n"
    "        child = subprocess.Popen(['sleep', '1000'])\n"
    "        open('pids', 'a').write('%d\\n' % child.pid)\n"
    "        time.sleep(1000)\n"
    "    if word == 'flood': sys.stderr.write('noise ' * 100000); return 1\n"
    "    if word == 'garbage': say('debugging: <%s>' % rest); return 1\n"
    "    if word == 'endless': say('x' * (17 << 20)); return 1\n"
    "    if word == 'log': say(json.dumps({'t': 'log', 'level': 'info', 'msg': 'hi'})); return 1\n"
    "    if word == 'late': say(json.dumps({'t': 'scores', 'id': 0, 'scores': [9]})); return 1\n"
    "    return 0\n"
    "for line in sys.stdin:\n"
    "    m = json.loads(line)\n"
    "    if m['t'] == 'hello':\n"
    "        hello = {'t': 'hello', 'proto': 1, 'name': 'bench'}\n"
    "        hello.update(m['config'])\n"
    "        say(json.dumps(hello))\n"
    "    if m['t'] == 'score':\n"
    "        scores = [score(s) for s in m['samples']]\n"
    "        if any(s['completion'] == 'one more' for s in m['samples']): scores.append(1)\n"
    "        if any(s['completion'] == 'one less' for s in m['samples']): scores.pop()\n"
    "        say(json.dumps({'t': 'scores', 'id': m['id'], 'scores': scores}))\n";

struct bench {
    char dir[BENCH_PATH_ROOM];
    char source[64];
    struct reward_config reward;
    struct run_config config;
};

static inline void bench_path(const struct bench *bench, const char *name,
                              char out[BENCH_PATH_ROOM])
{
    const int n = snprintf(out, BENCH_PATH_ROOM, "%s/%s", bench->dir, name);
    assert_true(n > 0 && n < BENCH_PATH_ROOM);
}

static inline void bench_open(struct bench *bench)
{
    static char name[] = "judge";
    static char run_name[] = "test";
    char path[BENCH_PATH_ROOM];
    memset(bench, 0, sizeof(*bench));
    support_temp_dir(bench->dir, sizeof(bench->dir));
    bench_path(bench, "score.py", path);
    assert_ok(file_write_atomic(path, bench_scorer, strlen(bench_scorer)));
    memcpy(bench->source, "cmd:python3 -S -E score.py", 27);
    bench->reward = (struct reward_config){.name = name,
                                           .source = bench->source,
                                           .weight = 1.0,
                                           .timeout_s = 20.0,
                                           .start_timeout_s = 20.0,
                                           .workers = 1,
                                           .batch_max = 8,
                                           .retries = 1};
    bench->config.run.name = run_name;
    bench->config.folder = bench->dir;
    bench->config.rewards = &bench->reward;
    bench->config.n_rewards = 1;
}

static inline void bench_close(struct bench *bench)
{
    support_temp_dir_remove(bench->dir);
}

/* false when the process is gone, or dead and only waits to be reaped by whoever adopted it. */
static inline bool bench_is_running(long pid)
{
    char path[64];
    char *text = NULL;
    size_t n = 0;
    const int length = snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    assert_true(length > 0);
    if (file_read(path, 65536, &text, &n) != STATUS_OK) {
        return false;
    }
    const char *state = strrchr(text, ')');
    const bool is_running = state != NULL && state[1] == ' ' && state[2] != 'Z' && state[2] != 'X';
    memory_free(text);
    return is_running;
}

/* How many processes have written their id, and how many of them still run. */
static inline size_t bench_starts(const struct bench *bench, size_t *n_running)
{
    char path[BENCH_PATH_ROOM];
    char *text = NULL;
    size_t n_bytes = 0;
    size_t n = 0;
    *n_running = 0;
    bench_path(bench, "pids", path);
    if (file_read(path, 65536, &text, &n_bytes) != STATUS_OK) {
        return 0;
    }
    for (char *at = text; *at != '\0'; n++) {
        const long pid = strtol(at, &at, 10);
        *n_running += bench_is_running(pid) ? 1 : 0;
        at += *at == '\n' ? 1 : 0;
    }
    memory_free(text);
    return n;
}

static inline void assert_all_gone(const struct bench *bench)
{
    size_t n_running = 1;
    for (int i = 0; i < 100 && n_running > 0; i++) {
        (void)bench_starts(bench, &n_running);
        clock_sleep_us(n_running > 0 ? 1000 : 0);
    }
    assert_int_equal(n_running, 0);
}

static inline struct score_sample bench_sample(int64_t sample_id, const char *completion)
{
    return (struct score_sample){.sample_id = sample_id,
                                 .group_id = 44,
                                 .idx = 2,
                                 .step = 12,
                                 .finish = "stop",
                                 .version = 11,
                                 .prompt = "2+2=",
                                 .prompt_bytes = 4,
                                 .completion = completion,
                                 .completion_bytes = strlen(completion),
                                 .data_source = "sums",
                                 .n_tokens = 5};
}

#endif
