/* SPDX-License-Identifier: Apache-2.0
 *
 * The system calls of storing 4 KiB on one device, and nothing else: what a PUT costs
 * in the kernel, whoever asks for it.
 *
 *   commit DIRECTORY THREADS OBJECTS ROUNDS
 *
 * Each round stores every object; all rounds but the first replace. Prints one line of
 * JSON: commits (those that replaced), cpu_ms and switches of one of them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PATH = 512, PARTITIONS = 64, BODY = 4096, RECORD = 280 };

static const char *root;
static int thread_count, object_count, round_number;

static void check(int failed, const char *what) {
    if (failed) { perror(what); exit(1); }
}

/* Note the suffix as changed, under the partition's lock. */
static void invalidate(const char *partition) {
    char path[PATH];
    snprintf(path, sizeof path, "%s/.lock", partition);
    int lock = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    check(lock < 0 || flock(lock, LOCK_EX), "lock");
    snprintf(path, sizeof path, "%s/hashes.invalid", partition);
    int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    check(log < 0 || write(log, "abc\n", 4) != 4, "log");
    close(log);
    close(lock);
}

/* The name of what stands in the directory; empty for nothing. Reads its record. */
static void look(const char *directory, char *old) {
    static __thread char record[RECORD * 2];
    char path[PATH * 2];
    DIR *listed = opendir(directory);
    struct dirent *entry;
    *old = 0;
    if (!listed) return;
    while ((entry = readdir(listed)))
        if (entry->d_name[0] != '.') strcpy(old, entry->d_name);
    closedir(listed);
    snprintf(path, sizeof path, "%s/%s", directory, old);
    if (*old) check(getxattr(path, "user.swift.metadata", record, sizeof record) < 0, "record");
}

static void store(int object) {
    static const char body[BODY], record[RECORD];
    char partition[PATH / 4], suffix[PATH / 2], directory[PATH], old[300], name[64], link[64];
    struct statvfs space;
    snprintf(partition, sizeof partition, "%s/%d", root, object % PARTITIONS);
    snprintf(suffix, sizeof suffix, "%s/%03x", partition, object & 0xfff);
    snprintf(directory, sizeof directory, "%s/%032x", suffix, object);
    look(directory, old);
    if (!*old) { mkdir(partition, 0777); mkdir(suffix, 0777); mkdir(directory, 0777); }
    int where = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int file = openat(where, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    check(where < 0 || file < 0, "open");
    check(fstatvfs(file, &space), "space");
    check(write(file, body, BODY) != BODY, "write");
    check(fsetxattr(file, "user.swift.metadata", record, RECORD, 0), "xattr");
    check(fsetxattr(file, "user.swift.metadata_checksum", record, 32, 0), "xattr");
    check(fsync(file), "fsync");
    invalidate(partition);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    snprintf(name, sizeof name, "%010d.00000.data", round_number);
    check(linkat(where, link, where, name, AT_SYMLINK_FOLLOW), "link");
    check(fsync(where), "fsync");
    if (*old) check(unlinkat(where, old, 0), "unlink");
    close(file);
    close(where);
}

static void *work(void *number) {
    for (int object = (int)(long)number; object < object_count; object += thread_count)
        store(object);
    return NULL;
}

static void run_round(void) {
    pthread_t threads[64];
    for (long i = 0; i < thread_count; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
    round_number++;
}

static double cpu_ms(const struct rusage *used) {
    return (used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1e3
         + (used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e3;
}

int main(int argc, char **argv) {
    struct rusage before, after;
    if (argc != 5) { fprintf(stderr, "usage: see the head of commit.c\n"); return 2; }
    root = argv[1];
    thread_count = atoi(argv[2]) < 64 ? atoi(argv[2]) : 64;
    object_count = atoi(argv[3]);
    mkdir(root, 0777);
    run_round();
    getrusage(RUSAGE_SELF, &before);
    while (round_number < atoi(argv[4])) run_round();
    getrusage(RUSAGE_SELF, &after);
    double commits = (double)object_count * (round_number - 1);
    printf("{\"commits\": %.0f, \"cpu_ms\": %f, \"switches\": %f}\n", commits,
           (cpu_ms(&after) - cpu_ms(&before)) / commits,
           (after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw) / commits);
    return 0;
}
