#include "core/cpus.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The kernel refuses a mask that is shorter than its own; its longest, on x86, is for 8192 (NR_CPUS). */
#define MASK_CPUS 16384

#define LINE_BYTES 64 /* of a file with two numbers */

unsigned cpus_allowed(int *cpus, unsigned capacity)
{
    cpu_set_t mask[MASK_CPUS / CPU_SETSIZE];
    unsigned count = 0;

    if (sched_getaffinity(0, sizeof mask, mask) != 0)
        return 0;
    for (unsigned cpu = 0; cpu < MASK_CPUS; cpu++) {
        if (!CPU_ISSET_S(cpu, sizeof mask, mask))
            continue;
        if (count < capacity)
            cpus[count] = (int)cpu;
        count++;
    }
    return count;
}

/* Where one version of cgroups keeps its quota. Hosts may have both, with the cpu controller in either. */
struct hierarchy {
    const char *filesystem;
    const char *controller; /* "" in v2, where one hierarchy has them all */
    double (*quota)(const char *group);
};

/* The smaller one of two quotas, of which 0 is none. */
static double tighter(double one, double other)
{
    if (one == 0 || other == 0)
        return one + other;
    return one < other ? one : other;
}

/* Put two parts of a path together. Longer than any path can be: false. */
static bool join(char path[PATH_MAX], const char *first, const char *second)
{
    int size = snprintf(path, PATH_MAX, "%s%s", first, second);
    return size >= 0 && size < PATH_MAX;
}

/* The first line of a group's file, without its end. There need not be one: the root of v2 has no cpu.max,
 * nor has a group without the controller. */
static bool read_line(const char *group, const char *file, char line[LINE_BYTES])
{
    char path[PATH_MAX];
    FILE *stream = join(path, group, file) ? fopen(path, "re") : NULL;
    if (stream == NULL)
        return false;
    bool found = fgets(line, LINE_BYTES, stream) != NULL;
    fclose(stream);
    if (found)
        line[strcspn(line, "\n")] = '\0';
    return found;
}

/* The number, when `text` is one and nothing else; 0 for v2's "max", v1's -1 and what can't be. */
static double positive(const char *text)
{
    char *end;
    long long number = strtoll(text, &end, 10);
    return end > text && *end == '\0' && number > 0 ? (double)number : 0;
}

static double quota_of(const char *quota_us, const char *period_us)
{
    return positive(period_us) > 0 ? positive(quota_us) / positive(period_us) : 0;
}

static double quota_v1(const char *group)
{
    char quota_us[LINE_BYTES], period_us[LINE_BYTES];
    if (!read_line(group, "/cpu.cfs_quota_us", quota_us) ||
        !read_line(group, "/cpu.cfs_period_us", period_us))
        return 0;
    return quota_of(quota_us, period_us);
}

static double quota_v2(const char *group)
{
    char line[LINE_BYTES];
    if (!read_line(group, "/cpu.max", line))
        return 0;
    char *period_us = line;
    char *quota_us = strsep(&period_us, " ");
    return period_us != NULL ? quota_of(quota_us, period_us) : 0;
}

static const struct hierarchy hierarchies[] = {
    { "cgroup2", "", quota_v2 },
    { "cgroup", "cpu", quota_v1 },
};

/* Is `word` one of the words of "rw,cpu,cpuacct"? The only word of "" is "". */
static bool has_word(const char *words, const char *word)
{
    size_t size = strlen(word);
    for (;;) {
        size_t length = strcspn(words, ",");
        if (length == size && strncmp(words, word, size) == 0)
            return true;
        if (words[length] == '\0')
            return false;
        words += length + 1;
    }
}

/* The path of this process's group, which begins at its cgroup namespace: a line "4:cpu,cpuacct:/path", or
 * "0::/path" for v2. */
static bool find_group(const char *root, const struct hierarchy *hierarchy, char group[PATH_MAX])
{
    char path[PATH_MAX];
    FILE *stream = join(path, root, "/proc/self/cgroup") ? fopen(path, "re") : NULL;
    if (stream == NULL)
        return false;

    char *line = NULL;
    size_t capacity = 0;
    bool found = false;
    while (!found && getline(&line, &capacity, stream) > 0) {
        char *rest = line;
        rest[strcspn(rest, "\n")] = '\0';
        strsep(&rest, ":");
        const char *controllers = strsep(&rest, ":");
        found = rest != NULL && has_word(controllers, hierarchy->controller) && join(group, rest, "");
    }
    free(line);
    fclose(stream);
    return found;
}

/* A line of /proc/self/mountinfo, as far as it matters here. */
struct mount {
    char *root;  /* which part of the file system is mounted: for cgroups a group, seen from the namespace */
    char *point; /* where */
    const char *filesystem;
    const char *options; /* for cgroup v1 its controllers are among them */
};

/* Undo, in place, the \040 that mountinfo writes for a space, and its like. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0';) {
        if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

/* "36 35 0:29 ROOT POINT rw,relatime shared:1 - FILESYSTEM source OPTIONS", with any number of words before
 * the dash. Cuts up the line. */
static bool parse_mount(char *line, struct mount *mount)
{
    line[strcspn(line, "\n")] = '\0';
    char *after = strstr(line, " - ");
    if (after == NULL)
        return false;
    *after = '\0';
    after += strlen(" - ");
    mount->filesystem = strsep(&after, " ");
    strsep(&after, " ");
    mount->options = after;

    char *before = line;
    for (int skipped = 0; skipped < 3; skipped++)
        strsep(&before, " ");
    mount->root = strsep(&before, " ");
    mount->point = strsep(&before, " ");
    if (mount->options == NULL || mount->point == NULL)
        return false;
    unescape(mount->root);
    unescape(mount->point);
    return true;
}

/* The next name of a path, and how long it is; "" at its end. */
static const char *next_name(const char *path, size_t *size)
{
    path += strspn(path, "/");
    *size = strcspn(path, "/");
    return path;
}

/* Are the names of `path` all "..", or, with `up` false, none of them? */
static bool leads_only(bool up, const char *path)
{
    size_t size;
    for (path = next_name(path, &size); size > 0; path = next_name(path + size, &size)) {
        if ((size == 2 && strncmp(path, "..", 2) == 0) != up)
            return false;
    }
    return true;
}

/* Where below a mount that shows the groups from `root` on does `group` lie? "" at its very top, also when
 * what it shows begins above the namespace: then the top is as near as one can get. NULL: it isn't shown.
 *
 *   root          group            below the mount
 *   /             /a/b             a/b               a host
 *   /docker/ID    /docker/ID/a     a                 a container without a cgroup namespace
 *   /             /                                  a container with one
 *   /..           /a                                 a namespace that kept the mounts of the one above
 *   /docker/ID    /else            NULL */
static const char *below_mount(const char *root, const char *group)
{
    size_t root_size, group_size;
    for (;;) {
        root = next_name(root, &root_size);
        group = next_name(group, &group_size);
        if (root_size == 0 || root_size != group_size || strncmp(root, group, root_size) != 0)
            break;
        root += root_size;
        group += group_size;
    }
    if (!leads_only(true, root) || !leads_only(false, group))
        return NULL;
    return root_size == 0 ? group : "";
}

/* The tightest quota from the group up to the mount's top: each binds all groups below it. */
static double quota_upwards(const struct hierarchy *hierarchy, const char *top, const char *below)
{
    char group[PATH_MAX];
    int size = snprintf(group, sizeof group, "%s%s%s", top, *below == '\0' ? "" : "/", below);
    if (size < 0 || (size_t)size >= sizeof group)
        return 0;

    double quota = 0;
    for (;;) {
        quota = tighter(quota, hierarchy->quota(group));
        char *last = strrchr(group + strlen(top), '/');
        if (last == NULL)
            return quota;
        *last = '\0';
    }
}

/* The tightest quota of all mounts that show this process's group. */
static double quota_in(const char *root, const struct hierarchy *hierarchy, const char *group)
{
    char path[PATH_MAX];
    FILE *stream = join(path, root, "/proc/self/mountinfo") ? fopen(path, "re") : NULL;
    if (stream == NULL)
        return 0;

    char *line = NULL;
    size_t capacity = 0;
    double quota = 0;
    while (getline(&line, &capacity, stream) > 0) {
        struct mount mount;
        if (!parse_mount(line, &mount) || strcmp(mount.filesystem, hierarchy->filesystem) != 0)
            continue;
        if (*hierarchy->controller != '\0' && !has_word(mount.options, hierarchy->controller))
            continue;
        const char *below = below_mount(mount.root, group);
        if (below != NULL && join(path, root, mount.point))
            quota = tighter(quota, quota_upwards(hierarchy, path, below));
    }
    free(line);
    fclose(stream);
    return quota;
}

double cpus_quota(const char *root)
{
    double quota = 0;
    for (size_t i = 0; i < sizeof hierarchies / sizeof hierarchies[0]; i++) {
        char group[PATH_MAX];
        if (find_group(root, &hierarchies[i], group))
            quota = tighter(quota, quota_in(root, &hierarchies[i], group));
    }
    return quota;
}

unsigned cpus_shards(const char *root)
{
    unsigned shards = cpus_allowed(NULL, 0);
    double quota = cpus_quota(root);
    if (quota > 0 && quota < shards)
        shards = (unsigned)quota + (quota > (unsigned)quota); /* ceil, without libm */
    return shards > 0 ? shards : 1;
}
