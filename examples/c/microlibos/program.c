/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Programs: shared objects that define ml_main(). */
#include <dlfcn.h>
#include <stdlib.h>

#include "os.h"

struct program* g_program;

struct program* program_new(const char* path, int argc, char* const argv[]) {
    struct program* program = calloc(1, sizeof(*program));
    if (!program || !(program->argv = calloc((size_t)argc + 1, sizeof(*program->argv))))
        os_fail("a program", ENOMEM);
    snprintf(program->path, sizeof(program->path), "%s", path);
    program->argc = argc;
    for (int i = 0; i < argc; i++)
        program->argv[i] = strdup(argv[i]);
    return program;
}

int program_load(struct program* program) {
    Dl_info where;
    program->library = dlopen(program->path, RTLD_NOW | RTLD_LOCAL);
    void* found = program->library ? dlsym(program->library, "ml_main") : NULL;
    if (!found || !dladdr(found, &where))
        return -ENOEXEC;
    /* ISO C has no conversion from an object's address to a function's. */
    memcpy(&program->run, &found, sizeof(found));
    program->start = where.dli_fbase;
    return 0;
}

void program_unload(struct program* program) {
    for (int i = 0; i < program->argc; i++)
        free(program->argv[i]);
    free(program->argv);
    if (program->library)
        dlclose(program->library);
    free(program);
}

/* The supervisor loads the program when all threads have left, so that nothing of the old one is in use. */
int ml_exec(const char* name, char* const argv[]) {
    char path[512];
    const char* slash = strrchr(g_program->path, '/');
    snprintf(path, sizeof(path), "%.*s/%s.so", slash ? (int)(slash - g_program->path) : 0, g_program->path, name);
    int argc = 0;
    while (argv[argc])
        argc++;
    FILE* file = strlen(path) < sizeof(g_program->path) ? fopen(path, "re") : NULL;
    if (!file)
        return -ENOENT;
    fclose(file);
    struct program* program = program_new(path, argc, argv);
    pthread_mutex_lock(&g_os.lock);
    bool is_first = !g_os.next;
    if (is_first) {
        g_os.next = program;
        g_os.next_mask = g_self->mask;
    }
    pthread_mutex_unlock(&g_os.lock);
    if (!is_first)
        program_unload(program);
    request(EXEC, 0, 0);
    thread_leave();
}
