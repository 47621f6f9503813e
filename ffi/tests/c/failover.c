/* Failover from C: there, a branch, home again by what differs, and a test beside it. */
#include "check.h"

static bool count_steps(void *user, const hrl_step *step) {
    CHECK(strlen(step->kind) > 0 && strlen(step->failover) == 32);
    ++*(int *)user;
    return true;
}

static bool keep_branch(void *user, const hrl_branch *branch) {
    *(hrl_branch *)user = *branch;
    return true;
}

static void fill(hrl_device *device, uint64_t offset, uint8_t byte) {
    uint8_t data[4096];
    memset(data, byte, sizeof data);
    OK(hrl_device_write(device, offset, data, sizeof data, 0));
}

static uint8_t byte_at(hrl_device *device, uint64_t offset) {
    uint8_t data[512];
    OK(hrl_device_read(device, offset, data, sizeof data));
    return data[0];
}

/* Its site is lost before the commit; then it comes back. */
static void abandon_one(const struct rig *rig, const hrl_failover_options *options) {
    hrl_device *disk;
    hrl_protection_options *lost;
    hrl_failover *over;

    FAILS(HRL_ERROR_NOT_FOUND, hrl_vault_abandon_failover(rig->vault, "disk"));
    OK(hrl_device_new_memory(8 << 20, &disk));
    OK(hrl_protection_options_new("disk", disk, rig->vault, in_directory("lost"), &lost));
    OK(hrl_failover_start(lost, options, &over));
    OK(hrl_vault_abandon_failover(rig->vault, "disk"));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_vault_abandon_failover(rig->vault, "disk"));
    FAILS(HRL_ERROR_FENCED, hrl_failover_commit(over));
    hrl_failover_free(over);
    hrl_protection_options_free(lost);
    hrl_device_free(disk);
}

int main(void) {
    struct rig rig;
    hrl_device *volume, *away, *served, *view;
    hrl_protection_options *there;
    hrl_protection *home;
    hrl_failover *over;
    hrl_failover_options options = {0};
    hrl_failover_status status = HRL_INIT(hrl_failover_status);
    hrl_follower *follower;
    hrl_replica *replica, *old;
    hrl_branch branch;
    hrl_catch_up done = HRL_INIT(hrl_catch_up);
    hrl_stats stats = HRL_INIT(hrl_stats);
    hrl_point point = HRL_INIT(hrl_point);
    uint64_t sequence;
    uint32_t stage, epoch;
    int steps = 0;

    rig_open(&rig, "vault", "home", NULL);
    OK(hrl_protection_options_set(rig.options, "failover_poll_interval_ms", "50"));
    OK(hrl_protection_device(rig.protection, &volume));
    fill(volume, 0, 1);
    OK(hrl_protection_mark(rig.protection, HRL_POINT_CRASH, "good", &point));
    fill(volume, 0, 2);
    OK(hrl_protection_wait_replicated(rig.protection, 60000, NULL));

    OK(hrl_replica_open(rig.vault, "disk", &replica));
    OK(hrl_replica_begin_test(replica, "drill", "good", &sequence));
    CHECK(sequence == point.sequence);
    OK(hrl_replica_end_test(replica, "drill"));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_replica_end_test(replica, "drill"));

    OK(hrl_device_new_memory(8 << 20, &away));
    OK(hrl_protection_options_new("disk", away, rig.vault, in_directory("away"), &there));
    OK(hrl_protection_options_set(there, "failover_poll_interval_ms", "50"));
    options.struct_bytes = sizeof options;
    options.at = "good";
    options.disk_reads_zero = true;
    abandon_one(&rig, &options);
    OK(hrl_failover_start(there, &options, &over));
    OK(hrl_failover_get_status(over, &status, &stats));
    CHECK(status.sequence == point.sequence && !status.committed && stats.provisional);
    CHECK(strcmp(status.point, point.id) == 0);
    OK(hrl_failover_device(over, &served));
    CHECK(byte_at(served, 0) == 1);
    fill(served, 8192, 7);
    OK(hrl_failover_commit(over));
    OK(hrl_failover_wait_hydrated(over, 60000));
    OK(hrl_failover_mark(over, "away", NULL));
    OK(hrl_failover_wait_replicated(over, 60000, NULL));
    /* The old source finds out when it has something to ship. */
    fill(volume, 4096, 3);
    FAILS(HRL_ERROR_FENCED, hrl_protection_stop(rig.protection, 60000));
    hrl_device_free(volume);
    hrl_protection_free(rig.protection);

    OK(hrl_replica_refresh(replica));
    OK(hrl_replica_lifecycle(replica, &stage, &epoch, count_steps, &steps));
    CHECK(stage == HRL_STAGE_COMMITTED && epoch == 2 && steps == 6);
    memset(&branch, 0, sizeof branch);
    OK(hrl_replica_branches(replica, keep_branch, &branch));
    CHECK(branch.epoch == 1 && branch.from_sequence == point.sequence);
    CHECK(branch.last_sequence > point.sequence);
    OK(hrl_replica_open(rig.vault, "disk@1", &old));
    OK(hrl_replica_view(old, "newest", &view));
    CHECK(byte_at(view, 0) == 2);
    hrl_device_free(view);
    hrl_replica_free(old);

    OK(hrl_follower_open(rig.options, &follower));
    OK(hrl_follower_catch_up(follower, NULL, NULL, NULL, &done));
    CHECK(byte_at(rig.disk, 0) == 1 && byte_at(rig.disk, 8192) == 7);
    OK(hrl_follower_fail_back(follower, rig.options, 60000, NULL, NULL, &done, &home));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_follower_catch_up(follower, NULL, NULL, NULL, NULL));
    hrl_follower_free(follower);
    OK(hrl_failover_get_status(over, &status, &stats));
    CHECK(stats.handed_over);
    hrl_device_free(served);
    hrl_failover_free(over);

    OK(hrl_replica_refresh(replica));
    OK(hrl_replica_lifecycle(replica, &stage, NULL, NULL, NULL));
    CHECK(stage == HRL_STAGE_PROTECTED);
    OK(hrl_replica_drop_branch(replica, 1));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_replica_drop_branch(replica, 1));
    OK(hrl_protection_stop(home, 60000));
    hrl_protection_free(home);
    hrl_replica_free(replica);
    hrl_protection_options_free(there);
    hrl_device_free(away);
    hrl_protection_options_free(rig.options);
    hrl_vault_free(rig.vault);
    hrl_store_free(rig.store);
    hrl_device_free(rig.disk);
    return 0;
}
