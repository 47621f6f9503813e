// hrl.hpp: handles move and free themselves, errors carry what the library knows, exceptions cross callbacks.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <hrl.hpp>
#include <iostream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << std::endl;     \
            std::exit(1);                                                                    \
        }                                                                                    \
    } while (0)

static std::string in_directory(const std::string &name) {
    const char *base = std::getenv("TEST_DIRECTORY");
    return std::string(base ? base : ".") + "/" + name;
}

// A disk that throws on demand, and counts its deaths.
struct Faulty : hrl::BlockDevice {
    explicit Faulty(std::atomic<int> &deaths) : deaths_(deaths) {}
    ~Faulty() override { deaths_++; }
    std::uint64_t size_bytes() const override { return sizeof bytes; }
    void read(std::uint64_t offset, std::uint8_t *buffer, std::size_t length) override {
        std::memcpy(buffer, bytes + offset, length);
    }
    void write(std::uint64_t offset, const std::uint8_t *data, std::size_t length, bool) override {
        if (fail) throw std::system_error(ENOSPC, std::generic_category());
        std::memcpy(bytes + offset, data, length);
    }
    void flush() override {}
    std::atomic<bool> fail{false};
    std::uint8_t bytes[1 << 20] = {};

private:
    std::atomic<int> &deaths_;
};

static void errors() {
    try {
        hrl::Store::directory("/nowhere/at/all", false);
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.status() == HRL_ERROR_NOT_FOUND && std::string(error.kind()) == "not-found");
        CHECK(error.object() == "/nowhere/at/all" && error.os_code() == ENOENT && !error.offset());
    }
    hrl::Device memory = hrl::Device::memory(8192), empty;
    try {
        memory.read(8192, 1);
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.offset() == std::uint64_t(8192));
    }
    empty = std::move(memory);
    CHECK(empty && !memory && empty.size_bytes() == 8192);
    try {
        memory.flush();
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.status() == HRL_ERROR_INVALID_INPUT);
    }
}

// A store in memory.
struct MemoryStore : hrl::ObjectStore {
    explicit MemoryStore(std::atomic<int> &deaths) : deaths_(deaths) {}
    ~MemoryStore() override { deaths_++; }
    bool put(const std::string &name, const std::uint8_t *data, std::size_t length) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return objects_.emplace(name, std::vector<std::uint8_t>(data, data + length)).second;
    }
    void get(const std::string &name, std::uint64_t offset, std::uint8_t *buffer, std::size_t length) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(name);
        if (found == objects_.end()) throw std::system_error(ENOENT, std::generic_category());
        if (length > 0) std::memcpy(buffer, found->second.data() + offset, length);
    }
    std::optional<std::uint64_t> head(const std::string &name) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(name);
        if (found == objects_.end()) return std::nullopt;
        return found->second.size();
    }
    void list(const std::string &prefix,
              const std::function<void(const std::string &, std::uint64_t)> &found) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const auto &[name, content] : objects_) {
            if (name.compare(0, prefix.size(), prefix) == 0) found(name, content.size());
        }
    }
    void remove(const std::string &name) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        objects_.erase(name);
    }

private:
    std::mutex mutex_;
    std::map<std::string, std::vector<std::uint8_t>> objects_;
    std::atomic<int> &deaths_;
};

struct Stopped : std::runtime_error {
    Stopped() : std::runtime_error("stopped by the test") {}
};

// Runs a call whose callback throws, and returns whether the exception came out.
template <typename Call>
static bool comes_out(Call &&call) {
    try {
        call();
    } catch (const Stopped &) {
        return true;
    }
    return false;
}

// Serves nothing, and throws in one chosen method.
struct Host : hrl::PlanHost {
    std::string throws;
    std::set<std::string> called;

    void enter(const std::string &method) {
        called.insert(method);
        if (method == throws) throw Stopped();
    }
    hrl_plan_started start(const hrl_plan_request &request) override {
        CHECK(std::string(request.volume) == "disk" && !hrl::is_stopped(request));
        enter("start");
        hrl_plan_started started{};
        std::strcpy(started.uri, "nbd://there");
        started.sequence = 1;
        return started;
    }
    void commit(const hrl_plan_request &) override { enter("commit"); }
    void clean_up(const hrl_plan_request &) override { enter("clean_up"); }
    void on_step(const std::string &run, const std::string &) override {
        CHECK(!run.empty());
        enter("on_step");
    }
};

// Exceptions of callbacks come out of the calls that run them, on any thread.
static void thrown(const hrl::Vault &vault, const hrl::Replica &replica) {
    const hrl::Progress stop = [](auto, auto) -> bool { throw Stopped(); };
    CHECK(comes_out([&] { replica.restore("newest", in_directory("image3"), 0, stop); }));
    CHECK(comes_out([&] { replica.verify(nullptr, stop); }));
    std::size_t runs = 0;
    const hrl::Device disk = hrl::Device::memory(8192);
    disk.allocation(0, 8192, [&](auto, auto, bool) { runs++; });
    CHECK(runs > 0 && comes_out([&] { disk.allocation(0, 8192, [](auto, auto, bool) { throw Stopped(); }); }));

    const hrl::Plan plan("name = \"p\"\n[[group]]\nname = \"g\"\n[[group.member]]\nvolume = \"disk\"\n");
    CHECK(plan.check(vault).find("\"problems\":[]") != std::string::npos);
    Host host;
    hrl_plan_options options{};
    options.run = "good";
    options.poll_ms = 10;
    const std::string good = plan.run(vault, host, options);
    CHECK(good.find("\"outcome\":\"done\"") != std::string::npos);
    CHECK(host.called.count("clean_up") == 1 && host.called.count("on_step") == 1);
    CHECK(hrl::Plan::report(vault, "good") == good && hrl::Plan::resume(vault, "good", host) == good);
    for (const char *method : {"start", "clean_up", "on_step"}) {
        host.throws = method;
        options.run = method;
        std::string report;
        CHECK(comes_out([&] { plan.run(vault, host, options, &report); }));
        CHECK(report == hrl::Plan::report(vault, method));
    }
    try {
        hrl::Plan::approve(vault, "good", "g/before/1", true, "test");
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.status() == HRL_ERROR_NOT_FOUND);
    }
}

// Pins and compaction; a store, a tap that does not wait, and conversions.
static void the_rest() {
    CHECK(hrl::version_number() == 1000 && hrl::version() == "0.1.0");
    hrl::set_watchdog(in_directory("no-watchdog"));
    std::atomic<int> deaths{0};
    {
        const auto vault = hrl::Vault::create(hrl::Store::from(std::make_unique<MemoryStore>(deaths)));
        const hrl::Device disk = hrl::Device::memory(1 << 20);
        hrl::ProtectionOptions options("disk", disk, vault, in_directory("state-memory"));
        options.set("crash_point_interval", "0s").suspicion();
        const hrl::Protection protection(options);
        protection.wait_ordered(hrl::Limit(60000));
        {
            const hrl::Tap tap = protection.tap();
            std::atomic<int> woken{0};
            std::optional<hrl::Ticket> first = tap.try_begin(0, 4096, [&] { woken++; });
            while (!first) first = tap.try_begin(0, 4096, [&] { woken++; });
            CHECK(!tap.try_begin(0, 4096, [&] { woken++; }));
            first->cancel();
            while (woken == 0) std::this_thread::yield();
        }
        protection.mark("kept");
        protection.wait_replicated(hrl::Limit(60000));
        CHECK(!protection.timeline().empty());
        const hrl::Replica replica = vault.replica("disk");
        replica.pin("kept", HRL_PIN_FOREVER, "test");
        CHECK(replica.points().back().pinned);
        replica.unpin("kept");
        CHECK(replica.trust("nothing is suspicious") == 0);
        CHECK(!replica.points().back().pinned && replica.compact("1h all", HRL_COMPACT_DRY_RUN).findings == 0);
        CHECK(vault.group_points().empty());
        const auto second = hrl::Vault::create(hrl::Store::directory(in_directory("mirror")));
        const hrl::Mirror mirror(vault, second);
        CHECK(comes_out([&] { mirror.run([]() -> bool { throw Stopped(); }); }));
        const auto mirrored = mirror.run();
        CHECK(mirrored.size() == 1 && std::string(mirrored[0].volume) == "disk");
        CHECK(mirrored[0].status == HRL_OK && mirrored[0].version == mirrored[0].source_version);
        CHECK(second.replica("disk").points().size() == replica.points().size());
        hrl::set_deletion_delay(in_directory("mirror"), 14 * 86400000ULL);
        CHECK(hrl::maintain(in_directory("mirror"), nullptr, "1h all") == 0);
        const auto back = hrl::undelete(in_directory("mirror"), nullptr, 0);
        CHECK(back.size() == 1 && back[0].status == HRL_OK && back[0].objects == 0);
        try {
            vault.abandon_failover("disk");
            CHECK(false);
        } catch (const hrl::Error &error) {
            CHECK(error.status() == HRL_ERROR_NOT_FOUND);
        }
        try {
            hrl::convert_to_native({in_directory("absent")}, in_directory("native.hrl"));
            CHECK(false);
        } catch (const hrl::Error &error) {
            CHECK(error.status() == HRL_ERROR_NOT_FOUND);
        }
        protection.stop(hrl::Limit(60000));
    }
    CHECK(deaths == 1);
}

// A writer that waits when the protection ends is woken, and its function is freed.
static void a_wait_ends_with_the_protection() {
    const auto kept = std::make_shared<int>(0);
    {
        const auto vault = hrl::Vault::create(hrl::Store::directory(in_directory("vault-wait")));
        const hrl::Device disk = hrl::Device::memory(1 << 20);
        const hrl::Protection protection(hrl::ProtectionOptions("disk", disk, vault, in_directory("state-wait")));
        protection.wait_ordered(hrl::Limit(60000));
        const hrl::Tap tap = protection.tap();
        hrl_ticket never_ended{};
        hrl::check(hrl_tap_begin(tap.get(), 0, 4096, &never_ended));
        CHECK(!tap.try_begin(0, 4096, [kept] { ++*kept; }));
        CHECK(kept.use_count() == 2);
    }
    CHECK(kept.use_count() == 1 && *kept == 1);
}

int main() {
    errors();
    a_wait_ends_with_the_protection();
    the_rest();
    std::atomic<int> deaths{0}, events{0};
    {
        auto faulty = std::make_unique<Faulty>(deaths);
        Faulty &disk = *faulty;
        const hrl::Device device = hrl::Device::from(std::move(faulty));
        const auto vault = hrl::Vault::create(hrl::Store::directory(in_directory("vault")));
        hrl::ProtectionOptions options("disk", device, vault, in_directory("state"));
        options.set("crash_point_interval_ms", "0").on_event([&](const hrl::Event &event) {
            CHECK(event.volume == "disk");
            events++;
            throw 1;  // dropped
        });
        const hrl::Protection protection(options);
        protection.wait_ordered(hrl::Limit(60000));
        {
            const hrl::Device volume = protection.device();
            std::vector<std::uint8_t> data(4096, 7);
            CHECK(protection.mark("start").sequence > 0);
            volume.write(0, data.data(), data.size());
            disk.fail = true;
            try {
                volume.write(4096, data.data(), data.size());
                CHECK(false);
            } catch (const hrl::Error &error) {
                CHECK(error.status() == HRL_ERROR_FULL && error.os_code() == ENOSPC);
            }
            disk.fail = false;
            const hrl::Tap tap = protection.tap();
            {
                hrl::Ticket ticket = tap.begin(8192, data.size());
                device.write(8192, data.data(), data.size());
                CHECK(ticket.complete(data.data(), data.size()) > 0);
                const hrl::Ticket dropped = tap.begin(16384, 512);
            }
            // The dropped ticket counted as a failed write: that place is read again first.
            protection.wait_ordered(hrl::Limit(60000));
            hrl::Ticket ticket = tap.begin(16384, 512);
            hrl::Buffer buffer(data.data(), 512);
            device.write(16384, buffer.data(), buffer.size());
            ticket.complete(std::move(buffer));
            tap.flush();
            volume.zero(0, 512);
        }
        int released = 0;
        const auto point = protection.mark_quiesced([](hrl::Limit) {}, [&] { released++; }, "app", hrl::Limit(5000));
        CHECK(point.kind == HRL_POINT_APP && released == 1);
        try {
            protection.mark_quiesced([](hrl::Limit) { throw std::runtime_error("busy"); }, [&] { released++; }, "",
                                     hrl::Limit(5000));
            CHECK(false);
        } catch (const std::runtime_error &error) {
            CHECK(std::string(error.what()) == "busy" && released == 2);
        }
        protection.wait_replicated(hrl::Limit(60000));
        CHECK(protection.stats().points == 2);
        const hrl::Replica replica = vault.replica("disk");
        CHECK(replica.points().size() == 2 && vault.volumes().size() == 1);
        CHECK(!replica.timeline().empty() && replica.verify().findings == 0);
        replica.check_at_least(replica.version().text);
        std::vector<hrl::Finding> unread;
        CHECK(replica.notes().empty() && vault.group_points(&unread).empty() && unread.empty());
        const hrl::Device view = replica.view("app");
        CHECK(view.read(8192, 1)[0] == 7 && view.read(16384, 1)[0] == 7 && view.read(0, 1)[0] == 0);
        const auto report = replica.restore("newest", in_directory("image"), 0, [](auto, auto) { return true; });
        CHECK(report.volume_bytes == 1 << 20);
        try {
            replica.restore("newest", in_directory("image2"), 0, [](auto, auto) { return false; });
            CHECK(false);
        } catch (const hrl::Error &error) {
            CHECK(error.status() == HRL_ERROR_UNAVAILABLE);
        }
        thrown(vault, replica);
        CHECK(replica.changes("start", "app").total_bytes() > 0);
        const hrl::NbdServer server("unix:" + in_directory("s"), "view", view);
        CHECK(server.uri().find("nbd+unix:///view") == 0 && server.stats().connections == 0);
        protection.stop(hrl::Limit(60000));
        CHECK(deaths == 0);
    }
    CHECK(deaths == 1 && events > 0);
    return 0;
}
