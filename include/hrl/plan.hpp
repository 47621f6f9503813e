/** Recovery plans. Part of hrl.hpp. */
#ifndef HRL_PLAN_HPP
#define HRL_PLAN_HPP

#include "vault.hpp"

namespace hrl {

/**
 * Brings the volumes of plans up, with the contract of hrl_plan_callbacks. Methods may throw. Then
 * the step fails, the run ends as its plan says, and the first exception comes out of `Plan::run`
 * or `Plan::resume`.
 */
class PlanHost {
public:
    virtual ~PlanHost() = default;
    /** Brings a volume up; returns once it is served. */
    virtual hrl_plan_started start(const hrl_plan_request &request) = 0;
    /** Commits the failover of a volume, of a real run only. */
    virtual void commit(const hrl_plan_request &request) = 0;
    /** Takes a test failover down, even if its start failed. */
    virtual void clean_up(const hrl_plan_request &request) = 0;
    /** Returns whether to stop the run, which can be resumed. Asked now and then. */
    virtual bool stopped() { return false; }
    /** Receives a run and a step, as JSON, when the step begins and when it has ended. */
    virtual void on_step(const std::string &, const std::string &) {}
};

/** Returns whether the step of a request has to end. */
inline bool is_stopped(const hrl_plan_request &request) noexcept { return hrl_plan_stop_is_set(request.stop); }

/** A recovery plan. Reports are JSON. */
class Plan : public detail::Handle<hrl_plan, hrl_plan_free> {
public:
    using Handle::Handle;
    /** Reads a plan, which is TOML; errors call it `name`. */
    explicit Plan(const std::string &text, const std::string &name = "plan")
        : Handle(detail::make<hrl_plan>(
              [&](hrl_plan **out) { return hrl_plan_parse(text.c_str(), name.c_str(), out); })) {}

    /**
     * Finds the state that each volume would come up at, and the problems that keep the plan from
     * running.
     */
    std::string check(const Vault &vault) const {
        return text([&](auto receive, void *user) { return hrl_plan_check(get(), vault.get(), receive, user); });
    }
    /**
     * Runs the plan to its end and returns the report. `options.struct_bytes` is set here.
     * `report`, if given, receives the report even if a method of the host threw.
     */
    std::string run(const Vault &vault, PlanHost &host, hrl_plan_options options = hrl_plan_options{},
                    std::string *report = nullptr) const {
        return Running(host).run(options, report, [&](auto callbacks, auto chosen, auto receive, void *user) {
            return hrl_plan_run(get(), vault.get(), callbacks, chosen, receive, user);
        });
    }
    /**
     * Goes on with an interrupted run. Only returns the report of a run that is over. As `run`
     * otherwise.
     */
    static std::string resume(const Vault &vault, const std::string &run, PlanHost &host,
                              hrl_plan_options options = hrl_plan_options{}, std::string *report = nullptr) {
        return Running(host).run(options, report, [&](auto callbacks, auto chosen, auto receive, void *user) {
            return hrl_plan_resume(vault.get(), run.c_str(), callbacks, chosen, receive, user);
        });
    }
    /** Approves a manual step that waits, or rejects it. */
    static void approve(const Vault &vault, const std::string &run, const std::string &step, bool approved,
                        const std::string &by, const std::string &note = "") {
        hrl::check(hrl_plan_approve(vault.get(), run.c_str(), step.c_str(), approved, by.c_str(), note.c_str()));
    }
    /** Returns the report of a run. */
    static std::string report(const Vault &vault, const std::string &run) {
        return text([&](auto receive, void *user) { return hrl_plan_report(vault.get(), run.c_str(), receive, user); });
    }

private:
    struct Text {
        std::string text;
        detail::Thrown thrown;

        static void on_text(void *user, const char *text) noexcept {
            auto *kept = static_cast<Text *>(user);
            try {
                kept->text = text;
            } catch (...) {
                kept->thrown.keep();
            }
        }
    };
    template <typename Call>
    static std::string text(Call &&call) {
        Text kept;
        const hrl_status status = call(&Text::on_text, static_cast<void *>(&kept));
        kept.thrown.finish(status);
        return std::move(kept.text);
    }

    /** A run, and the first exception of its host. */
    class Running {
    public:
        explicit Running(PlanHost &host) : host_(host) {}

        template <typename Call>
        std::string run(hrl_plan_options options, std::string *report, Call &&call) {
            auto callbacks = sized<hrl_plan_callbacks>();
            callbacks.start = &Running::start;
            callbacks.commit = &Running::commit;
            callbacks.clean_up = &Running::clean_up;
            callbacks.stopped = &Running::stopped;
            callbacks.on_step = &Running::on_step;
            options.struct_bytes = sizeof options;
            const hrl_status status = call(&callbacks, &options, &Running::on_report, static_cast<void *>(this));
            if (report != nullptr) *report = report_;
            thrown_.finish(status);
            return std::move(report_);
        }

    private:
        template <typename Call>
        static std::int32_t guard(void *user, Call &&call) noexcept {
            auto *running = static_cast<Running *>(user);
            try {
                call(*running);
                return 0;
            } catch (...) {
                running->thrown_.keep();
                return detail::errno_of_exception();
            }
        }
        static std::int32_t start(void *user, const hrl_plan_request *request, hrl_plan_started *started) noexcept {
            return guard(user, [&](Running &running) {
                const std::size_t room = started->struct_bytes;
                detail::copy_known(started, room, running.host_.start(*request), sizeof *started);
            });
        }
        static std::int32_t commit(void *user, const hrl_plan_request *request) noexcept {
            return guard(user, [&](Running &running) { running.host_.commit(*request); });
        }
        static std::int32_t clean_up(void *user, const hrl_plan_request *request) noexcept {
            return guard(user, [&](Running &running) { running.host_.clean_up(*request); });
        }
        static bool stopped(void *user) noexcept {
            bool stop = true;
            guard(user, [&](Running &running) { stop = running.host_.stopped(); });
            return stop;
        }
        static void on_step(void *user, const char *run, const char *step) noexcept {
            guard(user, [&](Running &running) { running.host_.on_step(run, step); });
        }
        static void on_report(void *user, const char *text) noexcept {
            guard(user, [&](Running &running) { running.report_ = text; });
        }

        PlanHost &host_;
        std::string report_;
        detail::Thrown thrown_;
    };
};

}  // namespace hrl

#endif
