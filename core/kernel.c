#include "core/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

struct feature {
    const char *name;
    unsigned major, minor;
};

static const struct feature features[KERNEL_FEATURES] = {
    [KERNEL_QUIET_SENDS] = { "quiet-sends", 5, 17 },
    [KERNEL_UNCOUNTED_WAITS] = { "uncounted-waits", 6, 15 },
    [KERNEL_GUARD_PAGES] = { "guard-pages", 6, 13 },
    [KERNEL_LIMITED_MULTISHOT] = { "limited-multishot", 6, 17 },
    /* CVE-2026-23473, in every Linux from 5.19 on, was mended in 2026, also in the long-lived 6.18. Older ones may have
     * the mend, too, but nothing tells. */
    [KERNEL_REMEMBERED_ENDS] = { "remembered-ends", 6, 18 },
    /* Since 6.12, but what a receive takes, and what is told of it, was wrong in one case or another up to 6.17. */
    [KERNEL_INCREMENTAL_BUFFERS] = { "incremental-buffers", 6, 18 },
};

const char *kernel_feature_name(enum kernel_feature feature)
{
    return features[feature].name;
}

static bool is_listed(const char *list, const char *name)
{
    size_t size = strlen(name);
    for (const char *item = list; item != NULL; item = strchr(item, ',')) {
        item += *item == ',';
        if (strncmp(item, name, size) == 0 && (item[size] == ',' || item[size] == '\0'))
            return true;
    }
    return false;
}

bool kernel_has(enum kernel_feature feature)
{
    const struct feature *wanted = &features[feature];
    const char *lacks = getenv("RONDO_KERNEL_LACKS");
    struct utsname system;
    unsigned major, minor;
    if (is_listed(lacks, wanted->name) || is_listed(lacks, "all"))
        return false;
    if (uname(&system) < 0 || sscanf(system.release, "%u.%u", &major, &minor) != 2)
        return false;
    return major > wanted->major || (major == wanted->major && minor >= wanted->minor);
}
