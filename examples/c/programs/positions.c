/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Parent and child share the position of an inherited open file. Eight processes write a line each, one after another. */
#include "common.h"

static int reader(const void* argument, size_t size) {
    char text[8] = "";
    int fd;
    memcpy(&fd, argument, size);
    ml_read(fd, text, 3);
    ml_print("child: %s", text);
    return 0;
}

static int writer(const void* argument, size_t size) {
    int fd;
    memcpy(&fd, argument, size);
    for (int i = 0; i < 20; i++)
        ml_write(fd, "0123456789", 10);
    return 0;
}

int ml_main(int argc, char** argv) {
    char text[8] = "", block[2000];
    int pids[8], wrong = 0;
    (void)argc, (void)argv;
    int fd = ml_open("file", O_RDWR | O_CREAT | O_TRUNC);
    ml_write(fd, "abcdefghi", 9);
    ml_seek(fd, 0);
    ml_read(fd, text, 3);
    ml_print("parent: %s", text);
    print_end("child", ml_fork(reader, &fd, sizeof(fd)));
    ml_read(fd, text, 3);
    ml_print("parent: %s, end %d", text, (int)ml_read(fd, text, 3));
    ml_seek(fd, 0);
    for (int i = 0; i < 8; i++)
        pids[i] = ml_fork(writer, &fd, sizeof(fd));
    for (int i = 0; i < 8; i++)
        print_end("writer", pids[i]);
    ml_seek(fd, 0);
    int size = (int)ml_read(fd, block, sizeof(block));
    for (int i = 0; i < size; i++)
        wrong += block[i] != '0' + i % 10;
    ml_print("bytes: %d, wrong %d", size, wrong);
    return 0;
}
