/** Replicas and change sets. Part of hrl.hpp. */
#ifndef HRL_REPLICA_HPP
#define HRL_REPLICA_HPP

#include "device.hpp"
#include "vault.hpp"

namespace hrl {

/** The changes between two recovery states, or two checkpoints of a disk that is tracked. */
class Changes : public detail::Handle<hrl_changes, hrl_changes_free> {
public:
    using Handle::Handle;
    std::uint64_t total_bytes() const noexcept { return hrl_changes_total_bytes(get()); }
    /** Returns why changes of a tracker are the whole disk; empty if they are exact. */
    std::string everything() const {
        const char *why = hrl_changes_everything(get());
        return why == nullptr ? std::string() : std::string(why);
    }
    std::vector<hrl_change> runs() const {
        return detail::collect<hrl_change>(
            [&](auto call, void *user) { return hrl_changes_runs(get(), call, user); });
    }
    std::uint64_t write_to_file(const std::string &path) const {
        std::uint64_t bytes = 0;
        check(hrl_changes_write_to_file(get(), path.c_str(), &bytes));
        return bytes;
    }
};

/** An object that is not as it was written. */
struct Finding {
    std::string object;
    std::string message;
};

/**
 * One volume in a vault. States are text, as for hrl_replica_resolve: "newest", a sequence, a time,
 * a point, a label.
 */
class Replica : public detail::Handle<hrl_replica, hrl_replica_free> {
public:
    using Handle::Handle;

    void refresh() const { check(hrl_replica_refresh(get())); }
    hrl_volume_info info() const {
        auto info = sized<hrl_volume_info>();
        check(hrl_replica_info(get(), &info));
        return info;
    }
    std::vector<hrl_point> points() const {
        return detail::collect<hrl_point>(
            [&](auto call, void *user) { return hrl_replica_points(get(), call, user); });
    }
    std::vector<hrl_timeline_entry> timeline() const {
        return detail::collect<hrl_timeline_entry>(
            [&](auto call, void *user) { return hrl_replica_timeline(get(), call, user); });
    }
    std::uint64_t resolve(const std::string &at) const {
        std::uint64_t sequence = 0;
        check(hrl_replica_resolve(get(), at.c_str(), &sequence));
        return sequence;
    }
    /** Returns its stage and, if asked for, its epoch and steps. */
    hrl_stage stage(std::uint32_t *epoch = nullptr, std::vector<hrl_step> *steps = nullptr) const {
        std::uint32_t stage = 0;
        check(hrl_replica_lifecycle(get(), &stage, epoch, nullptr, nullptr));
        if (steps) {
            detail::each<hrl_step>(
                [&](auto call, void *user) { return hrl_replica_lifecycle(get(), &stage, nullptr, call, user); },
                [&](const hrl_step &step) { steps->push_back(detail::copied(step)); });
        }
        return static_cast<hrl_stage>(stage);
    }
    std::vector<hrl_branch> branches() const {
        return detail::collect<hrl_branch>(
            [&](auto call, void *user) { return hrl_replica_branches(get(), call, user); });
    }
    void drop_branch(std::uint32_t epoch) const { check(hrl_replica_drop_branch(get(), epoch)); }
    /** Records a test failover, and returns the sequence to view. */
    std::uint64_t begin_test(const std::string &name, const std::string &at = "newest-good") const {
        std::uint64_t sequence = 0;
        check(hrl_replica_begin_test(get(), name.c_str(), at.c_str(), &sequence));
        return sequence;
    }
    void end_test(const std::string &name) const { check(hrl_replica_end_test(get(), name.c_str())); }
    Device view(const std::string &at = "newest") const {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_replica_view(get(), at.c_str(), out); }));
    }
    hrl_restore_report restore(const std::string &at, const std::string &path, std::uint32_t flags = 0,
                               const Progress &progress = nullptr) const {
        auto report = sized<hrl_restore_report>();
        detail::Watched watched{progress};
        const hrl_status status = hrl_replica_restore(get(), at.c_str(), path.c_str(), flags, watched.callback(),
                                                      &watched, &report);
        watched.thrown.finish(status);
        return report;
    }
    /**
     * Carries retention out once. `retention` is text such as "2h all; 30d daily"; empty: the
     * default. `flags` are of HRL_COMPACT_.
     */
    hrl_compact_report compact(const std::string &retention = "", std::uint32_t flags = 0,
                               const std::string &scratch = "", const Progress &progress = nullptr) const {
        auto report = sized<hrl_compact_report>();
        detail::Watched watched{progress};
        const hrl_status status = hrl_replica_compact(
            get(), retention.empty() ? nullptr : retention.c_str(), flags,
            scratch.empty() ? nullptr : scratch.c_str(), watched.callback(), &watched, &report);
        watched.thrown.finish(status);
        return report;
    }
    /**
     * Keeps a point through retention until a time, in nanoseconds since 1970, or one of HRL_PIN_.
     */
    void pin(const std::string &point, std::int64_t until_ns = HRL_PIN_FOREVER, const std::string &reason = "") const {
        check(hrl_replica_pin(get(), point.c_str(), until_ns, reason.c_str()));
    }
    /** Declares suspicious points to be good. Returns their number. */
    std::uint64_t trust(const std::string &text = "") const {
        std::uint64_t points = 0;
        check(hrl_replica_trust(get(), text.c_str(), &points));
        return points;
    }
    /** Removes the pin of a point, or with `legal_hold` its legal hold. */
    void unpin(const std::string &point, bool legal_hold = false) const {
        check(hrl_replica_unpin(get(), point.c_str(), legal_hold));
    }
    Changes changes(const std::string &from, const std::string &to = "newest") const {
        return Changes(detail::make<hrl_changes>(
            [&](hrl_changes **out) { return hrl_replica_changes(get(), from.c_str(), to.c_str(), out); }));
    }
    /** Returns the catalog version that was read; its `text` is for check_at_least() later. */
    hrl_catalog_version version() const {
        auto version = sized<hrl_catalog_version>();
        check(hrl_replica_version(get(), &version));
        return version;
    }
    /**
     * Throws HRL_ERROR_DIVERGED unless the volume has a version, point or time, see
     * hrl_replica_check_at_least.
     */
    void check_at_least(const std::string &expected) const { check(hrl_replica_check_at_least(get(), expected.c_str())); }
    /** Returns what is ignored, each with the reason. */
    std::vector<std::string> notes() const {
        struct Noting {
            std::vector<std::string> notes;
            detail::Thrown thrown{};

            static void on_note(void *user, const char *text) noexcept {
                auto *noting = static_cast<Noting *>(user);
                try {
                    noting->notes.emplace_back(text);
                } catch (...) {
                    noting->thrown.keep();
                }
            }
        };
        Noting noting{};
        noting.thrown.finish(hrl_replica_notes(get(), &Noting::on_note, &noting));
        return std::move(noting.notes);
    }
    /** Checks everything, and adds damaged objects to `findings`. */
    hrl_verify_report verify(std::vector<Finding> *findings = nullptr, const Progress &progress = nullptr) const {
        struct Verifying {
            detail::Watched watched;
            std::vector<Finding> *findings;

            static bool on_progress(void *user, std::uint64_t done, std::uint64_t total) noexcept {
                return detail::Watched::on_progress(&static_cast<Verifying *>(user)->watched, done, total);
            }
            static void on_finding(void *user, const char *object, const char *message) noexcept {
                auto *verifying = static_cast<Verifying *>(user);
                try {
                    verifying->findings->push_back(Finding{object, message});
                } catch (...) {
                    verifying->watched.thrown.keep();
                }
            }
        };
        auto report = sized<hrl_verify_report>();
        Verifying verifying{detail::Watched{progress}, findings};
        const hrl_status status =
            hrl_replica_verify(get(), progress ? &Verifying::on_progress : nullptr,
                               findings ? &Verifying::on_finding : nullptr, &verifying, &report);
        verifying.watched.thrown.finish(status);
        return report;
    }
};

inline Replica Vault::replica(const std::string &name) const {
    return Replica(detail::make<hrl_replica>(
        [&](hrl_replica **out) { return hrl_replica_open(get(), name.c_str(), out); }));
}

}  // namespace hrl

#endif
