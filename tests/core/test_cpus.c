#include "core/cpus.h"

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define V1_MOUNT(root, point, options)                                                                       \
    "32 31 0:29 " root " " point " rw,relatime - cgroup cgroup " options "\n"
#define V2_MOUNT(root, point) "41 31 0:38 " root " " point " rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define DISK_MOUNT            "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,cpu\n"

static char root[64];

static void make_root(void)
{
    strcpy(root, "/tmp/rondo-cpus-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(root), NULL));
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static void remove_root(void)
{
    cr_assert(eq(int, nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0));
}

TestSuite(cpus, .init = make_root, .fini = remove_root, .timeout = 10);

/* Write a file below the root, and the directories on the way to it. */
static void put(const char *path, const char *content)
{
    char full[PATH_MAX];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        cr_assert(mkdir(full, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    cr_assert(ne(ptr, file, NULL));
    cr_assert(fputs(content, file) >= 0);
    cr_assert(eq(int, fclose(file), 0));
}

static void put_proc(const char *cgroup, const char *mountinfo)
{
    put("/proc/self/cgroup", cgroup);
    put("/proc/self/mountinfo", mountinfo);
}

static void put_v1(const char *group, const char *quota_us, const char *period_us)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", group);
    put(path, quota_us);
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", group);
    put(path, period_us);
}

static void assert_quota(double expected)
{
    cr_assert(epsilon_eq(dbl, cpus_quota(root), expected, 1e-9));
}

/* Affinity */

Test(cpus, allowed_are_those_of_the_affinity_mask_in_order)
{
    cpu_set_t mask;
    cr_assert(eq(int, sched_getaffinity(0, sizeof mask, &mask), 0));

    int cpus[CPU_SETSIZE];
    unsigned count = cpus_allowed(cpus, CPU_SETSIZE);

    cr_assert(eq(uint, count, (unsigned)CPU_COUNT(&mask)));
    for (unsigned i = 0; i < count; i++) {
        cr_assert(ne(int, CPU_ISSET((size_t)cpus[i], &mask), 0));
        cr_assert(i == 0 || cpus[i - 1] < cpus[i]);
    }
}

Test(cpus, allowed_is_narrowed_by_the_affinity_mask)
{
    int cpus[CPU_SETSIZE];
    unsigned all = cpus_allowed(cpus, CPU_SETSIZE);
    int last = cpus[all - 1];
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET((size_t)last, &mask);
    cr_assert(eq(int, sched_setaffinity(0, sizeof mask, &mask), 0));

    unsigned count = cpus_allowed(cpus, CPU_SETSIZE);

    cr_assert(eq(uint, count, 1));
    cr_assert(eq(int, cpus[0], last));
    cr_assert(eq(uint, cpus_shards(root), 1));
}

Test(cpus, allowed_counts_more_than_fit_and_writes_no_more_than_fit)
{
    int cpus[2] = { -1, -1 };

    cr_assert(eq(uint, cpus_allowed(cpus, 1), cpus_allowed(NULL, 0)));

    cr_assert(cpus[0] >= 0);
    cr_assert(eq(int, cpus[1], -1));
}

/* cgroup v2 */

Test(cpus, v2_quota_is_a_fraction_of_the_period)
{
    put_proc("0::/app\n", DISK_MOUNT V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/app/cpu.max", "50000 100000\n");
    assert_quota(0.5);
}

Test(cpus, v2_max_is_no_quota)
{
    put_proc("0::/app\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/app/cpu.max", "max 100000\n");
    assert_quota(0);
}

Test(cpus, v2_takes_the_smaller_quota_of_a_parent)
{
    put_proc("0::/pod/app/worker\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
    put("/sys/fs/cgroup/pod/app/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/pod/app/worker/cpu.max", "400000 100000\n");
    assert_quota(1.5);
}

Test(cpus, v2_takes_the_smaller_quota_of_the_group_itself)
{
    put_proc("0::/pod/app\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/pod/cpu.max", "400000 100000\n");
    put("/sys/fs/cgroup/pod/app/cpu.max", "20000 10000\n");
    assert_quota(2);
}

Test(cpus, v2_ignores_the_quota_of_a_sibling)
{
    put_proc("0::/app\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/application/cpu.max", "50000 100000\n");
    put("/sys/fs/cgroup/app/child/cpu.max", "50000 100000\n");
    assert_quota(0);
}

Test(cpus, v2_in_a_cgroup_namespace_reads_the_top_of_the_mount)
{
    put_proc("0::/\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    assert_quota(1.5);
}

Test(cpus, v2_without_a_cgroup_namespace_strips_the_root_of_the_mount)
{
    put_proc("0::/system.slice/docker-1f.scope/init\n",
             V2_MOUNT("/system.slice/docker-1f.scope", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    put("/sys/fs/cgroup/init/cpu.max", "max 100000\n");
    assert_quota(0.5);
}

Test(cpus, v2_group_above_the_namespace_binds_it)
{
    put_proc("0::/app\n", V2_MOUNT("/..", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    put("/sys/fs/cgroup/app/cpu.max", "10000 100000\n");
    assert_quota(0.5);
}

Test(cpus, v2_group_outside_of_the_namespace_cannot_be_seen)
{
    put_proc("0::/../else\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    put("/sys/fs/else/cpu.max", "50000 100000\n");
    assert_quota(0);
}

Test(cpus, v2_group_removed_meanwhile_leaves_its_parents)
{
    put_proc("0::/pod/app (deleted)\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/pod/cpu.max", "50000 100000\n");
    assert_quota(0.5);
}

/* cgroup v1 */

Test(cpus, v1_quota_is_a_fraction_of_the_period)
{
    put_proc("2:cpuacct:/\n1:cpu:/docker/1f\n", DISK_MOUNT V1_MOUNT("/", "/sys/fs/cgroup/cpu", "rw,cpu"));
    put_v1("/sys/fs/cgroup/cpu/docker/1f", "25000\n", "50000\n");
    assert_quota(0.5);
}

Test(cpus, v1_minus_one_is_no_quota)
{
    put_proc("1:cpu:/\n", V1_MOUNT("/", "/sys/fs/cgroup/cpu", "rw,cpu"));
    put_v1("/sys/fs/cgroup/cpu", "-1\n", "100000\n");
    assert_quota(0);
}

Test(cpus, v1_takes_the_smaller_quota_of_a_parent)
{
    put_proc("1:cpu:/pod/app\n", V1_MOUNT("/", "/sys/fs/cgroup/cpu", "rw,cpu"));
    put_v1("/sys/fs/cgroup/cpu/pod", "150000\n", "100000\n");
    put_v1("/sys/fs/cgroup/cpu/pod/app", "-1\n", "100000\n");
    assert_quota(1.5);
}

Test(cpus, v1_finds_the_controller_among_those_mounted_with_it)
{
    put_proc("6:cpuset:/set\n4:cpu,cpuacct:/app\n",
             V1_MOUNT("/", "/sys/fs/cgroup/cpuset", "rw,cpuset")
                 V1_MOUNT("/", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpuacct,cpu"));
    put_v1("/sys/fs/cgroup/cpuset/set", "10000\n", "100000\n");
    put_v1("/sys/fs/cgroup/cpu,cpuacct/app", "150000\n", "100000\n");
    assert_quota(1.5);
}

Test(cpus, v1_in_a_container_without_a_cgroup_namespace_strips_the_root_of_the_mount)
{
    put_proc("4:cpu,cpuacct:/docker/1f\n",
             V1_MOUNT("/docker/1f", "/sys/fs/cgroup/cpu,cpuacct", "ro,cpu,cpuacct"));
    put_v1("/sys/fs/cgroup/cpu,cpuacct", "50000\n", "100000\n");
    assert_quota(0.5);
}

Test(cpus, v1_root_of_the_mount_is_stripped_by_whole_names)
{
    put_proc("4:cpu:/docker/1fff\n", V1_MOUNT("/docker/1f", "/sys/fs/cgroup/cpu", "ro,cpu"));
    put_v1("/sys/fs/cgroup/cpu", "50000\n", "100000\n");
    assert_quota(0);
}

Test(cpus, v1_takes_the_mount_that_shows_the_group)
{
    put_proc("4:cpu:/docker/1f\n",
             V1_MOUNT("/docker/2e", "/mnt/other", "rw,cpu") V1_MOUNT("/docker/1f", "/mnt/own", "rw,cpu"));
    put_v1("/mnt/other", "10000\n", "100000\n");
    put_v1("/mnt/own", "150000\n", "100000\n");
    assert_quota(1.5);
}

Test(cpus, escaped_characters_in_mountinfo_are_undone)
{
    put_proc("4:cpu:/my group\\one/app\n",
             V1_MOUNT("/my\\040group\\134one", "/mnt/control\\040groups\\011here", "rw,cpu"));
    put_v1("/mnt/control groups\there/app", "50000\n", "100000\n");
    assert_quota(0.5);
}

/* Both */

#define HYBRID_CGROUP "4:cpu,cpuacct:/app\n1:name=systemd:/app.service\n0::/app.service\n"
#define HYBRID_MOUNTS                                                                                        \
    V1_MOUNT("/", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct")                                            \
    V1_MOUNT("/", "/sys/fs/cgroup/systemd", "rw,name=systemd") V2_MOUNT("/", "/sys/fs/cgroup/unified")

Test(cpus, hybrid_with_the_controller_in_v1)
{
    put_proc(HYBRID_CGROUP, HYBRID_MOUNTS);
    put_v1("/sys/fs/cgroup/cpu,cpuacct/app", "150000\n", "100000\n");
    put("/sys/fs/cgroup/unified/app.service/cgroup.procs", "1\n");
    assert_quota(1.5);
}

Test(cpus, hybrid_with_the_controller_in_v2)
{
    put_proc("1:name=systemd:/app.service\n0::/app.service\n", HYBRID_MOUNTS);
    put("/sys/fs/cgroup/unified/app.service/cpu.max", "50000 100000\n");
    assert_quota(0.5);
}

Test(cpus, hybrid_without_a_quota)
{
    put_proc(HYBRID_CGROUP, HYBRID_MOUNTS);
    put_v1("/sys/fs/cgroup/cpu,cpuacct/app", "-1\n", "100000\n");
    put_v1("/sys/fs/cgroup/cpu,cpuacct", "-1\n", "100000\n");
    assert_quota(0);
}

/* What isn't there, and what isn't a quota */

Test(cpus, without_proc_there_is_no_quota)
{
    assert_quota(0);
}

Test(cpus, without_mounts_there_is_no_quota)
{
    put("/proc/self/cgroup", "4:cpu:/\n0::/\n");
    assert_quota(0);
}

Test(cpus, without_a_group_there_is_no_quota)
{
    put("/proc/self/mountinfo", HYBRID_MOUNTS);
    put_v1("/sys/fs/cgroup/cpu,cpuacct", "50000\n", "100000\n");
    assert_quota(0);
}

Test(cpus, a_quota_that_is_no_file_is_none)
{
    put_proc("0::/app\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/app/cpu.max/file", "50000 100000\n");
    assert_quota(0);
}

Test(cpus, a_quota_without_a_period_is_none)
{
    put_proc("4:cpu:/\n", V1_MOUNT("/", "/sys/fs/cgroup/cpu", "rw,cpu"));
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
    assert_quota(0);
}

Test(cpus, garbage_in_proc_is_no_quota)
{
    static const char *const lines[] = { "",
                                         "\n",
                                         ":",
                                         "::\n",
                                         "0:\n",
                                         "0::\n",
                                         "garbage\n",
                                         "36\n",
                                         "- \n",
                                         " - \n",
                                         " - cgroup2\n",
                                         "1 2 3 / - cgroup2 x rw\n",
                                         "1 2 3 \\ \\04 rw - cgroup2 x rw\n",
                                         "1 2 3 / / rw - cgroup2 \n",
                                         "      -       \n" };
    put_v1("/sys/fs/cgroup/cpu", "50000\n", "100000\n");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        put_proc(lines[i], HYBRID_MOUNTS);
        assert_quota(0);
        put_proc(HYBRID_CGROUP, lines[i]);
        assert_quota(0);
    }
}

Test(cpus, garbage_in_a_quota_is_none)
{
    static const char *const quotas[] = { "",
                                          "\n",
                                          "50000",
                                          "50000\n",
                                          "50000 \n",
                                          "50000 0\n",
                                          "0 100000\n",
                                          "-5 100000\n",
                                          "-5 -5\n",
                                          "50000 -5\n",
                                          "max max\n",
                                          "50000x 100000\n",
                                          "100000 5e4",
                                          "50000 100000 1\n",
                                          " \n",
                                          "maximum 100000\n",
                                          "0x50 0x10\n",
                                          "50000  100000x\n" };
    put_proc("0::/app\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    for (size_t i = 0; i < sizeof quotas / sizeof quotas[0]; i++) {
        put("/sys/fs/cgroup/app/cpu.max", quotas[i]);
        assert_quota(0);
    }
}

Test(cpus, paths_longer_than_any_path_are_no_quota)
{
    char cgroup[3 * PATH_MAX] = "0::/";
    memset(cgroup + 4, 'a', PATH_MAX - 10);
    put_proc(cgroup, V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_quota(0);

    memset(cgroup + 4, 'a', sizeof cgroup - 5);
    put_proc(cgroup, V2_MOUNT("/", "/sys/fs/cgroup"));
    assert_quota(0);
}

/* Shards */

static unsigned shards_of_quota(const char *quota)
{
    put_proc("0::/\n", V2_MOUNT("/", "/sys/fs/cgroup"));
    put("/sys/fs/cgroup/cpu.max", quota);
    return cpus_shards(root);
}

static unsigned smaller(unsigned one, unsigned other)
{
    return one < other ? one : other;
}

Test(cpus, without_a_quota_each_allowed_cpu_is_a_shard)
{
    cr_assert(eq(uint, shards_of_quota("max 100000\n"), cpus_allowed(NULL, 0)));
}

Test(cpus, shards_are_the_quota_rounded_up)
{
    unsigned allowed = cpus_allowed(NULL, 0);

    cr_assert(eq(uint, shards_of_quota("1 100000\n"), 1));
    cr_assert(eq(uint, shards_of_quota("50000 100000\n"), 1));
    cr_assert(eq(uint, shards_of_quota("100000 100000\n"), 1));
    cr_assert(eq(uint, shards_of_quota("100001 100000\n"), smaller(2, allowed)));
    cr_assert(eq(uint, shards_of_quota("150000 100000\n"), smaller(2, allowed)));
}

Test(cpus, shards_are_never_more_than_the_allowed_cpus)
{
    unsigned allowed = cpus_allowed(NULL, 0);

    cr_assert(eq(uint, shards_of_quota("99999999 100000\n"), allowed));
    cr_assert(eq(uint, shards_of_quota("9223372036854775807 1\n"), allowed));
    cr_assert(eq(uint, shards_of_quota("99999999999999999999999999 1\n"), allowed));
}

Test(cpus, this_machine_has_at_least_one_shard_and_no_more_than_its_cpus)
{
    unsigned shards = cpus_shards("");

    cr_assert(shards >= 1);
    cr_assert(shards <= cpus_allowed(NULL, 0));
}
