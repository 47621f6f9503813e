/** Journal files: segments and conversions. Part of hrl.hpp. */
#ifndef HRL_JOURNAL_HPP
#define HRL_JOURNAL_HPP

#include "replica.hpp"

namespace hrl {

/** A closed segment of a journal. */
class Segment : public detail::Handle<hrl_segment, hrl_segment_free> {
public:
    using Handle::Handle;
    explicit Segment(const std::string &path, const Replica &keys = Replica())
        : Handle(detail::make<hrl_segment>(
              [&](hrl_segment **out) { return hrl_segment_open(path.c_str(), keys.get(), out); })) {}
    hrl_segment_summary summary() const {
        auto summary = sized<hrl_segment_summary>();
        check(hrl_segment_get_summary(get(), &summary));
        return summary;
    }
    /** Passes every record to the callable, which returns nothing, or false to stop. */
    template <typename Call>
    void records(Call &&call) const {
        detail::each<hrl_record>(
            [&](auto visit, void *user) { return hrl_segment_records(get(), visit, user); }, call);
    }
    void verify() const { check(hrl_segment_verify(get())); }
};

namespace detail {

/** Runs a conversion, and adds its warnings to `notes`. */
template <typename Convert>
hrl_convert_report convert(const std::vector<std::string> &inputs, std::vector<std::string> *notes, Convert &&call) {
    struct Noting {
        std::vector<std::string> *notes;
        Thrown thrown{};

        static void on_note(void *user, const char *text) noexcept {
            auto *noting = static_cast<Noting *>(user);
            try {
                noting->notes->push_back(text);
            } catch (...) {
                noting->thrown.keep();
            }
        }
    };
    std::vector<const char *> paths;
    for (const std::string &input : inputs) paths.push_back(input.c_str());
    Noting noting{notes};
    auto report = sized<hrl_convert_report>();
    const hrl_status status = call(paths.data(), paths.size(), notes ? &Noting::on_note : nullptr,
                                   static_cast<void *>(&noting), &report);
    noting.thrown.finish(status);
    return report;
}

}  // namespace detail

/**
 * Writes native segments as a chain of Hyper-V logs into a new directory, and adds warnings to
 * `notes`.
 */
inline hrl_convert_report convert_to_hyperv(const std::vector<std::string> &inputs, const std::string &directory,
                                            const Replica &keys = Replica(),
                                            std::vector<std::string> *notes = nullptr) {
    return detail::convert(inputs, notes, [&](auto paths, auto count, auto note, auto user, auto report) {
        return hrl_convert_to_hyperv(paths, count, directory.c_str(), keys.get(), note, user, report);
    });
}
/**
 * Writes native segments as a log of dm-log-writes into a new file, and adds warnings to `notes`.
 */
inline hrl_convert_report convert_to_log_writes(const std::vector<std::string> &inputs, const std::string &file,
                                                const Replica &keys = Replica(),
                                                std::vector<std::string> *notes = nullptr) {
    return detail::convert(inputs, notes, [&](auto paths, auto count, auto note, auto user, auto report) {
        return hrl_convert_to_log_writes(paths, count, file.c_str(), keys.get(), note, user, report);
    });
}
/**
 * Writes a chain of Hyper-V logs, or one log of dm-log-writes, as one native segment into a new
 * file.
 */
inline hrl_convert_report convert_to_native(const std::vector<std::string> &inputs, const std::string &file) {
    return detail::convert(inputs, nullptr, [&](auto paths, auto count, auto, auto, auto report) {
        return hrl_convert_to_native(paths, count, file.c_str(), report);
    });
}

}  // namespace hrl

#endif
