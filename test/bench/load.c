/* SPDX-License-Identifier: Apache-2.0
 *
 * A closed-loop HTTP/1.1 load generator: N kept connections, one request at a time on
 * each, for a number of seconds. wrk cannot be used for HEAD (it waits for the body that
 * Content-Length announces).
 *
 *   load HOST PORT CONNECTIONS SECONDS METHOD PATH COUNT TOKEN BODY_BYTES
 *
 * PATH may hold one %d, which becomes the request's number modulo COUNT. Prints one line
 * of JSON: requests, seconds, p50_ms, p99_ms, errors.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, SAMPLES_MAX = 4000000 };

struct peer {
    int fd;
    char *out;
    size_t out_size, out_at;
    char in[HEAD_MAX];
    size_t in_size;
    long body_left; /* -1: the head has not come yet */
    double began;
};

static const char *host, *method, *path, *token;
static int port, is_head;
static long name_count, next_name, body_size, requests, errors;
static char *body;
static float *samples;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int dial(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, host, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); exit(1); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void begin(struct peer *p) {
    char target[4096];
    int size;
    snprintf(target, sizeof target, path, (int)(next_name++ % name_count));
    size = snprintf(p->out, HEAD_MAX, "%s %s HTTP/1.1\r\nHost: %s:%d\r\n"
                    "X-Auth-Token: %s\r\n", method, target, host, port, token);
    if (body_size || !strcmp(method, "PUT"))
        size += snprintf(p->out + size, HEAD_MAX - size, "Content-Length: %ld\r\n", body_size);
    size += snprintf(p->out + size, HEAD_MAX - size, "\r\n");
    memcpy(p->out + size, body, body_size);
    p->out_size = size + body_size;
    p->out_at = p->in_size = 0;
    p->body_left = -1;
    p->began = now();
}

/* 1: the request is sent, 0: the socket is full, -1: broken */
static int push(struct peer *p) {
    while (p->out_at < p->out_size) {
        ssize_t n = send(p->fd, p->out + p->out_at, p->out_size - p->out_at, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        p->out_at += n;
    }
    return 1;
}

static long length_of(const char *head) {
    const char *line = head;
    while ((line = strstr(line, "\r\n")) && line[2] != '\r') {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) return atol(line + 15);
    }
    return 0;
}

/* 1: the answer is whole, 0: more to come, -1: broken */
static int pull(struct peer *p) {
    static char waste[1 << 18];
    for (;;) {
        int in_head = p->body_left < 0;
        char *into = in_head ? p->in + p->in_size : waste;
        size_t room = in_head ? HEAD_MAX - 1 - p->in_size : sizeof waste;
        ssize_t n = recv(p->fd, into, room, 0);
        char *end;
        if (n == 0) return -1;
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        if (!in_head) {
            p->body_left -= n;
        } else {
            p->in_size += n;
            p->in[p->in_size] = 0;
            end = strstr(p->in, "\r\n\r\n");
            if (!end) { if (p->in_size == HEAD_MAX - 1) return -1; continue; }
            int status = atoi(p->in + 9);
            if (status < 200 || status > 299) errors++;
            p->body_left = is_head || status == 204 ? 0 : length_of(p->in);
            p->body_left -= p->in + p->in_size - (end + 4);
        }
        if (p->body_left == 0) return 1;
        if (p->body_left < 0) return -1;
    }
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 10) { fprintf(stderr, "usage: see the head of load.c\n"); return 2; }
    host = argv[1]; port = atoi(argv[2]);
    int count = atoi(argv[3]);
    double seconds = atof(argv[4]);
    method = argv[5]; path = argv[6]; name_count = atol(argv[7]); token = argv[8];
    body_size = atol(argv[9]);
    is_head = !strcmp(method, "HEAD");
    body = calloc(1, body_size + 1);
    memset(body, 'x', body_size);
    samples = malloc(sizeof(float) * SAMPLES_MAX);
    struct peer *peers = calloc(count, sizeof *peers);
    int poll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        struct epoll_event want = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &peers[i]};
        peers[i].fd = dial();
        peers[i].out = malloc(HEAD_MAX + body_size);
        epoll_ctl(poll, EPOLL_CTL_ADD, peers[i].fd, &want);
        begin(&peers[i]);
        push(&peers[i]);
    }
    double began = now(), end = began + seconds;
    int open = count;
    while (open) {
        struct epoll_event got[64];
        int n = epoll_wait(poll, got, 64, 1000);
        double t = now();
        if (t > end + 30) break;
        for (int i = 0; i < n; i++) {
            struct peer *p = got[i].data.ptr;
            int state = p->out_at < p->out_size ? push(p) : 1;
            if (state == 1) state = pull(p);
            while (state == 1) {
                t = now();
                if (requests < SAMPLES_MAX) samples[requests] = (t - p->began) * 1e3;
                requests++;
                if (t >= end) { close(p->fd); open--; break; }
                begin(p);
                state = push(p);
                if (state == 1) state = pull(p);
            }
            if (state < 0) { errors++; close(p->fd); open--; }
        }
    }
    long kept = requests < SAMPLES_MAX ? requests : SAMPLES_MAX;
    qsort(samples, kept, sizeof(float), by_value);
    printf("{\"requests\": %ld, \"seconds\": %f, \"p50_ms\": %f, \"p99_ms\": %f, \"errors\": %ld}\n",
           requests, now() - began, kept ? samples[kept / 2] : 0.0,
           kept ? samples[kept * 99 / 100] : 0.0, errors);
    return 0;
}
