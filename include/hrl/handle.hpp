/** Errors, handles, and how callables and their exceptions pass through C. Part of hrl.hpp. */
#ifndef HRL_HANDLE_HPP
#define HRL_HANDLE_HPP

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "../hrl.h"

namespace hrl {

/** A failure: what() returns the sentence, status() the next thing to do. */
class Error : public std::runtime_error {
public:
    /** Takes the last error of the calling thread. */
    explicit Error(hrl_status status)
        : std::runtime_error(hrl_error_message()),
          status_(status),
          operation_(hrl_error_operation()),
          object_(hrl_error_object()),
          os_code_(hrl_error_os_code()) {
        std::uint64_t place = 0;
        if (hrl_error_offset(&place)) offset_ = place;
    }

    /** Returns one of the HRL_ERROR_ numbers. */
    hrl_status status() const noexcept { return status_; }
    /** Returns the name of the status, such as "not-found". */
    const char *kind() const noexcept { return hrl_status_name(status_); }
    /** Returns what the library was doing. */
    const std::string &operation() const noexcept { return operation_; }
    /** Returns the name of the object of that operation. */
    const std::string &object() const noexcept { return object_; }
    /** Returns the byte offset in the object, if one is known. */
    std::optional<std::uint64_t> offset() const noexcept { return offset_; }
    /** Returns the errno of the cause; 0 for another cause. */
    int os_code() const noexcept { return os_code_; }

private:
    hrl_status status_;
    std::string operation_;
    std::string object_;
    std::optional<std::uint64_t> offset_;
    int os_code_;
};

/** Throws unless the status is HRL_OK. */
inline void check(hrl_status status) {
    if (status < 0) throw Error(status);
}

/** Returns the version of the library, such as "0.1.0". */
inline std::string version() { return hrl_version(); }
/** Returns the version of the library: major * 1,000,000 + minor * 1,000 + patch. */
inline std::uint32_t version_number() noexcept { return hrl_version_number(); }

/**
 * Returns a structure of hrl.h that is empty but for its size: room for the library, or options to
 * fill in.
 */
template <typename T>
T sized() noexcept {
    T value{};
    value.struct_bytes = sizeof value;
    return value;
}

namespace detail {

/**
 * Copies as much of a structure as both sides know. Each side keeps the size that it has room for.
 */
template <typename T>
void copy_known(T *to, std::size_t room, const T &from, std::size_t known) noexcept {
    const std::size_t bytes = std::min(room, known);
    std::memcpy(to, &from, bytes);
    to->struct_bytes = bytes;
}

/**
 * Returns a copy of a structure that the library gives, which may be shorter or longer than this
 * header's.
 */
template <typename T>
T copied(const T &given) noexcept {
    T value{};
    copy_known(&value, sizeof value, given, given.struct_bytes);
    return value;
}

template <typename T, void (*Free)(T *)>
class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T *raw) noexcept : raw_(raw) {}
    Handle(Handle &&other) noexcept : raw_(other.release()) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() { reset(); }

    /** Returns the handle of hrl.h, which this object still owns. */
    T *get() const noexcept { return raw_; }
    /** Gives the handle of hrl.h away. */
    T *release() noexcept { return std::exchange(raw_, nullptr); }
    /** Frees the handle of hrl.h and takes another. */
    void reset(T *raw = nullptr) noexcept {
        if (raw_ != nullptr) Free(raw_);
        raw_ = raw;
    }
    /** Returns whether there is a handle of hrl.h. */
    explicit operator bool() const noexcept { return raw_ != nullptr; }

private:
    T *raw_ = nullptr;
};

/** Makes a handle with a function whose last argument is its output. */
template <typename T, typename Make>
T *make(Make &&call) {
    T *raw = nullptr;
    check(call(&raw));
    return raw;
}

/** The first exception of the callbacks of one call, which may run on several threads. */
class Thrown {
public:
    /** Keeps the exception in flight; of several, the first. */
    void keep() noexcept {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!first_) first_ = std::current_exception();
    }
    /** Ends the call: throws the kept exception, else hrl::Error unless the status is HRL_OK. */
    void finish(hrl_status status) const {
        if (first_) std::rethrow_exception(first_);
        check(status);
    }

private:
    std::mutex mutex_;
    std::exception_ptr first_;
};

/** A callable that a C callback runs, and its exception. */
template <typename Call>
struct Guarded {
    Call &call;
    Thrown thrown{};
};

/** Runs the callable for one value of a listing. The callable returns nothing, or false to stop. */
template <typename Value, typename Call>
bool visit(void *user, const Value *value) noexcept {
    auto *guarded = static_cast<Guarded<Call> *>(user);
    try {
        if constexpr (std::is_same_v<decltype(guarded->call(*value)), void>) {
            guarded->call(*value);
            return true;
        } else {
            return guarded->call(*value);
        }
    } catch (...) {
        guarded->thrown.keep();
        return false;
    }
}

template <typename Value, typename List, typename Call>
void each(List &&list, Call &&call) {
    using Callable = std::remove_reference_t<Call>;
    Guarded<Callable> guarded{call};
    const hrl_status status = list(&visit<Value, Callable>, static_cast<void *>(&guarded));
    guarded.thrown.finish(status);
}

/** Collects the values of a listing. */
template <typename Value, typename List>
std::vector<Value> collect(List &&list) {
    std::vector<Value> found;
    each<Value>(list, [&](const Value &value) { found.push_back(copied(value)); });
    return found;
}

/** Returns an errno for the exception of a callback. */
inline int errno_of_exception() noexcept {
    try {
        throw;
    } catch (const std::system_error &error) {
        return error.code().value() > 0 ? error.code().value() : EIO;
    } catch (const std::bad_alloc &) {
        return ENOMEM;
    } catch (...) {
        return EIO;
    }
}

/** Runs a method of an embedder's object for C, and returns its errno. */
template <typename Call>
std::int32_t errno_of(Call &&call) noexcept {
    try {
        call();
        return 0;
    } catch (...) {
        return errno_of_exception();
    }
}

}  // namespace detail

/**
 * Receives the bytes done and the total of a long operation, from several threads. Returns false to
 * stop it.
 */
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
/** A time limit. */
using Limit = std::chrono::milliseconds;

namespace detail {

inline std::uint64_t millis(Limit limit) { return static_cast<std::uint64_t>(limit.count()); }

/** Runs the progress of a call. */
struct Watched {
    const Progress &progress;
    Thrown thrown{};

    hrl_progress_fn callback() const noexcept { return progress ? &on_progress : nullptr; }
    static bool on_progress(void *user, std::uint64_t done, std::uint64_t total) noexcept {
        auto *watched = static_cast<Watched *>(user);
        try {
            return watched->progress(done, total);
        } catch (...) {
            watched->thrown.keep();
            return false;
        }
    }
};

}  // namespace detail

}  // namespace hrl

#endif
