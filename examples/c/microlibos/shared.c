/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Numbers that processes share: semaphores, and the positions of open files. */
#include "os.h"

enum { SEMAPHORES = 32 };
/* The highest byte of the numbers of the sync handles of semaphores: those of positions have another one. */
#define SEMAPHORE (UINT64_C(0x51) << 56)

int shared_open(struct shared* shared, uint64_t number) {
    shared->value = 0;
    return sync_create(&shared->handle, number);
}

int shared_lock(struct shared* shared, const struct libos_ipc_call_limit* limit) {
    unsigned int news;
    return libos_ipc_sync_lock_within(shared->handle, SYNC_STATE_EXCLUSIVE, &shared->value, sizeof(shared->value), &news, limit);
}

void shared_unlock(struct shared* shared, bool changed) {
    sync_unlock(shared->handle, changed ? &shared->value : NULL, changed ? sizeof(shared->value) : 0);
}

void shared_close(struct shared* shared) {
    if (shared->handle)
        sync_destroy(shared->handle);
    shared->handle = NULL;
}

/* The semaphores that this process has used. */
static struct semaphore {
    int number; /* 0 if the slot is free */
    struct shared shared;
} g_semaphores[SEMAPHORES];
static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static int g_semaphores_made;

/* Returns a semaphore, which is opened at its first use here; NULL if there is no room. */
static struct semaphore* find(int number) {
    struct semaphore *found = NULL, *free = NULL;
    pthread_mutex_lock(&g_lock);
    for (int i = 0; i < SEMAPHORES && !found; i++) {
        if (g_semaphores[i].number == number)
            found = &g_semaphores[i];
        else if (g_semaphores[i].number == 0)
            free = &g_semaphores[i];
    }
    if (!found && free && shared_open(&free->shared, SEMAPHORE | (uint64_t)number) == 0) {
        free->number = number;
        found = free;
    }
    pthread_mutex_unlock(&g_lock);
    return found;
}

int ml_sem_create(int value) {
    pthread_mutex_lock(&g_lock);
    int number = g_os.pid << 8 | (++g_semaphores_made & 0xff);
    pthread_mutex_unlock(&g_lock);
    for (int i = 0; i < value; i++)
        if (ml_sem_up(number) < 0)
            return -ENOMEM;
    return find(number) ? number : -ENOMEM;
}

int ml_sem_up(int number) {
    struct semaphore* semaphore = find(number);
    if (!semaphore)
        return -EINVAL;
    call_begin();
    int result = shared_lock(&semaphore->shared, NULL);
    if (result == 0) {
        semaphore->shared.value++;
        shared_unlock(&semaphore->shared, true);
    }
    call_again(result);
    return result;
}

/* Makes one attempt to decrement the value. Returns -EAGAIN if it is 0. */
static int try_down(struct shared* shared, const struct libos_ipc_call_limit* limit) {
    int result = shared_lock(shared, limit);
    if (result != 0)
        return result;
    bool is_positive = shared->value > 0;
    shared->value -= is_positive;
    shared_unlock(shared, is_positive);
    return is_positive ? 0 : -EAGAIN;
}

int ml_sem_down(int number) {
    struct semaphore* semaphore = find(number);
    int result;
    if (!semaphore)
        return -EINVAL;
    struct sync_handle* handle = semaphore->shared.handle;
    do {
        struct libos_ipc_call_limit limit = call_begin();
        uint64_t seen;
        do {
            /* A change after this ends the wait. */
            result = libos_ipc_sync_changes(handle, &seen);
            if (result == 0)
                result = try_down(&semaphore->shared, &limit);
            if (result == -EAGAIN) {
                result = libos_ipc_sync_wait(handle, seen, &limit);
                result = result == 0 ? -EAGAIN : result;
            }
        } while (result == -EAGAIN);
    } while (call_again(result));
    return result;
}

int ml_sem_remove(int number) {
    struct semaphore* semaphore = find(number);
    if (!semaphore)
        return -EINVAL;
    pthread_mutex_lock(&g_lock);
    shared_close(&semaphore->shared);
    semaphore->number = 0;
    pthread_mutex_unlock(&g_lock);
    return 0;
}
