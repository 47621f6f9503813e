/** Consistency groups. Part of hrl.hpp. */
#ifndef HRL_GROUP_HPP
#define HRL_GROUP_HPP

#include "protection.hpp"
#include "replica.hpp"

namespace hrl {

/** One cut across the volumes of a group. */
struct GroupPoint {
    /** Identity: every member can be restored or viewed at it. */
    std::string id;
    hrl_point_kind kind;
    std::int64_t time_ns;
    std::string group;
    std::string label;
    /** Number of members; all can be restored to this cut if there are as many marks. */
    std::uint32_t members;
    std::vector<hrl_group_mark> marks;
    /** Longest barrier of a member, in microseconds; 0 for a point found in a vault. */
    std::uint64_t held_us;
};

namespace detail {

inline GroupPoint group_point(const hrl_group_point &point) {
    std::vector<hrl_group_mark> marks;
    for (std::size_t number = 0; const hrl_group_mark *mark = hrl_group_point_mark(&point, number); number++) {
        marks.push_back(copied(*mark));
    }
    return GroupPoint{point.id,
                      static_cast<hrl_point_kind>(point.kind),
                      point.time_ns,
                      point.group,
                      point.label,
                      point.members,
                      std::move(marks),
                      point.held_us};
}

/** Quiesces and releases on a thread of the library. */
struct Application {
    std::string name;
    std::function<void(Limit)> quiesce;
    std::function<void()> release;

    static std::int32_t on_quiesce(void *user, std::uint64_t limit_ms) noexcept {
        return errno_of([&] { static_cast<Application *>(user)->quiesce(Limit(static_cast<Limit::rep>(limit_ms))); });
    }
    static std::int32_t on_release(void *user) noexcept {
        return errno_of([&] { static_cast<Application *>(user)->release(); });
    }
};

}  // namespace detail

inline std::vector<GroupPoint> Vault::group_points(std::vector<Finding> *unread) const {
    struct Reading {
        std::vector<GroupPoint> found;
        std::vector<Finding> *unread;
        detail::Thrown thrown{};

        static bool on_point(void *user, const hrl_group_point *point) noexcept {
            auto *reading = static_cast<Reading *>(user);
            try {
                reading->found.push_back(detail::group_point(*point));
                return true;
            } catch (...) {
                reading->thrown.keep();
                return false;
            }
        }
        static void on_unread(void *user, const char *volume, const char *reason) noexcept {
            auto *reading = static_cast<Reading *>(user);
            try {
                reading->unread->push_back(Finding{volume, reason});
            } catch (...) {
                reading->thrown.keep();
            }
        }
    };
    Reading reading{{}, unread};
    const hrl_status status =
        hrl_vault_group_points(get(), &Reading::on_point, unread ? &Reading::on_unread : nullptr, &reading);
    reading.thrown.finish(status);
    return std::move(reading.found);
}

/** The coordinator of a consistency group. */
class GroupCoordinator : public detail::Handle<hrl_group_coordinator, hrl_group_coordinator_free> {
public:
    using Handle::Handle;
    /** Starts it; `options.struct_bytes` is set here. */
    explicit GroupCoordinator(hrl_group_options options)
        : Handle(detail::make<hrl_group_coordinator>([&](hrl_group_coordinator **out) {
              options.struct_bytes = sizeof options;
              return hrl_group_coordinator_start(&options, out);
          })) {}
    /** Returns the address at which it listens, "ADDRESS:PORT"; empty for an empty handle. */
    std::string address() const {
        const char *address = hrl_group_coordinator_address(get());
        return address == nullptr ? std::string() : std::string(address);
    }
    /** Makes a point of the group now, application-consistent with `app`. */
    GroupPoint point(bool app = false, const std::string &label = "") const {
        GroupPoint made{};
        detail::each<hrl_group_point>(
            [&](auto call, void *user) {
                return hrl_group_coordinator_point(get(), app, label.c_str(), call, user);
            },
            [&](const hrl_group_point &point) { made = detail::group_point(point); });
        return made;
    }
    /** Removes a member that is not coming back. */
    void remove(const std::string &volume) const { check(hrl_group_coordinator_remove(get(), volume.c_str())); }
};

/** A volume's membership in a group. Free it before its protection. */
class GroupMember {
public:
    /**
     * Joins `group` at the first of `coordinators` that answers, with the certificate in the
     * directory `identity`. `hold_percent` is the greatest share of the time for which the
     * coordinator may hold writers.
     */
    GroupMember(const Protection &protection, const std::string &group, const std::vector<std::string> &coordinators,
                const std::string &identity, std::uint32_t hold_percent = 10)
        : handle_(join(protection, group, coordinators, identity, hold_percent, nullptr)) {}
    /**
     * Also quiesces an application for application-consistent points, on a thread of the library.
     * Exceptions are reported to the coordinator: a std::system_error as its errno, anything else
     * as EIO.
     */
    GroupMember(const Protection &protection, const std::string &group, const std::vector<std::string> &coordinators,
                const std::string &identity, std::function<void(Limit)> quiesce, std::function<void()> release,
                std::string name = "application", std::uint32_t hold_percent = 10)
        : application_(std::make_unique<detail::Application>(
              detail::Application{std::move(name), std::move(quiesce), std::move(release)})),
          handle_(join(protection, group, coordinators, identity, hold_percent, application_.get())) {}

    hrl_group_member *get() const noexcept { return handle_.get(); }
    hrl_group_member_stats stats() const {
        auto stats = sized<hrl_group_member_stats>();
        check(hrl_group_member_stats_get(get(), &stats));
        return stats;
    }
    void wait_connected(Limit limit) const { check(hrl_group_member_wait_connected(get(), detail::millis(limit))); }
    /** Leaves the group: its points are made without this volume. */
    void leave(Limit limit) const { check(hrl_group_member_leave(get(), detail::millis(limit))); }

private:
    static hrl_group_member *join(const Protection &protection, const std::string &group,
                                  const std::vector<std::string> &coordinators, const std::string &identity,
                                  std::uint32_t hold_percent, detail::Application *application) {
        std::vector<const char *> hosts;
        for (const std::string &host : coordinators) hosts.push_back(host.c_str());
        auto callbacks = sized<hrl_quiesce_callbacks>();
        callbacks.name = application ? application->name.c_str() : nullptr;
        callbacks.quiesce = &detail::Application::on_quiesce;
        callbacks.release = &detail::Application::on_release;
        return detail::make<hrl_group_member>([&](hrl_group_member **out) {
            return hrl_protection_join_group(protection.get(), group.c_str(), hosts.data(), hosts.size(),
                                             identity.c_str(), hold_percent, application ? &callbacks : nullptr,
                                             application, out);
        });
    }

    // Freed after the handle: its threads may call it until then.
    std::unique_ptr<detail::Application> application_;
    detail::Handle<hrl_group_member, hrl_group_member_free> handle_;
};

}  // namespace hrl

#endif
