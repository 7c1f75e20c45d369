#include "pipeline/schedule.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "pipeline/describe.hpp"
#include "pipeline/times.hpp"

namespace biophony {

namespace {

constexpr unsigned kMostOthers = 4;

/// Threads that work off a queue.
class Lane {
public:
    explicit Lane(size_t threads) : most_(threads) {}
    ~Lane() {
        {
            const std::lock_guard lock(mutex_);
            end_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    void add(std::function<void()> work) {
        {
            const std::lock_guard lock(mutex_);
            queue_.push_back(std::move(work));
            if (idle_ < queue_.size() && threads_.size() < most_) threads_.emplace_back([this] { loop(); });
        }
        wake_.notify_one();
    }

private:
    void loop() {
        std::unique_lock lock(mutex_);
        for (;;) {
            ++idle_;
            wake_.wait(lock, [this] { return end_ || !queue_.empty(); });
            --idle_;
            if (queue_.empty()) return;
            const std::function<void()> work = std::move(queue_.front());
            queue_.pop_front();
            lock.unlock();
            work();
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> queue_;
    std::vector<std::thread> threads_;
    size_t most_, idle_ = 0;
    bool end_ = false;
};

}  // namespace

struct Schedule::State {
    /// What a thread tells the one that decides.
    struct Event {
        enum class Kind { kLog, kNote, kLooked, kNotLooked, kMade, kFailed } kind;
        size_t node = 0;
        std::string text, time;
        bool found = false;  ///< kLooked: the result is there
        std::string key;     ///< kLooked
        Json record;         ///< kLooked
        std::optional<Error> error;
    };
    /// A node at work.
    struct Live : Progress {
        Clock::time_point begin = Clock::now(), unit_begin = begin;
        mutable std::mutex mutex;
        double done = 0, total = 0;
        std::string unit;
        void update(double done_now, double total_now, std::string_view unit_now) override {
            const std::lock_guard lock(mutex);
            done = done_now, total = total_now;
            if (unit == unit_now) return;
            unit = unit_now;
            unit_begin = Clock::now();
        }
    };

    const Graph& graph;
    const Registry& registry;
    const RunOptions& options;
    RunObserver& observer;
    Work& work;
    std::vector<NodeOutcome>& outcomes;
    Hooks hooks;

    std::mutex mutex;
    std::condition_variable told;
    std::vector<Event> events;
    std::atomic<bool> stopping{false};  ///< set by the deciding thread: nothing new starts

    // Of the deciding thread alone.
    std::vector<std::vector<size_t>> users;
    std::vector<size_t> waits;                ///< how many inputs aren't done
    std::vector<char> torch_node, looked_up;  ///< by node: needs the one place for torch work; is being looked up
    std::set<size_t> ready;                   ///< inputs done, to be made
    std::map<size_t, std::unique_ptr<Live>> live;
    std::vector<std::string> keys;
    std::vector<Json> records;
    std::map<std::string, size_t> makers;  ///< key → the node that makes it, or has made it
    std::map<size_t, std::vector<size_t>> followers;
    size_t looking = 0, finished = 0, selected = 0;
    std::vector<char> data_set;  ///< by node: looks at the world, before all others
    size_t to_look = 0;          ///< data sets that aren't done
    std::vector<size_t> held;    ///< inputs done, waits for all data sets
    bool torch_busy = false, left = false, all_are_looked_at = false;
    std::map<std::string, std::pair<double, size_t>> taken_by_stem;  ///< seconds and count of what was made now
    Clock::time_point last_status{};

    // Last, so that their threads end first.
    Lane look{1}, torch{1}, others;

    State(const Graph& graph_, const Registry& registry_, const RunOptions& options_, RunObserver& observer_,
          Work& work_, std::vector<NodeOutcome>& outcomes_, Hooks hooks_)
        : graph(graph_),
          registry(registry_),
          options(options_),
          observer(observer_),
          work(work_),
          outcomes(outcomes_),
          hooks(std::move(hooks_)),
          users(graph.nodes.size()),
          waits(graph.nodes.size(), 0),
          torch_node(graph.nodes.size(), 0),
          looked_up(graph.nodes.size(), 0),
          keys(graph.nodes.size()),
          records(graph.nodes.size()),
          data_set(graph.nodes.size(), 0),
          others(most_others()) {
        size_t first = 0;
        const std::vector<size_t> order = looking_first(graph, first);
        for (size_t turn = 0; turn < first; ++turn)
            if (outcomes[order[turn]].state == NodeState::kWaiting) {
                data_set[order[turn]] = 1;
                ++to_look;
            }
        for (size_t i = 0; i < graph.nodes.size(); ++i) {
            if (outcomes[i].state != NodeState::kWaiting) continue;
            ++selected;
            const NodeType& type = *graph.nodes[i].type;
            torch_node[i] = !work.executor().elsewhere() &&
                            (type.torch || (type.uses_libtorch && type.uses_libtorch(graph.nodes[i], registry)));
            std::set<size_t> sources;
            for (const auto& [port, list] : graph.nodes[i].inputs) sources.insert(list.begin(), list.end());
            for (const size_t source : sources)
                if (!work.done()[source]) {
                    ++waits[i];
                    users[source].push_back(i);
                }
        }
    }

    unsigned most_others() const {
        return options.jobs > 0 ? options.jobs : std::clamp(options.threads, 1u, kMostOthers);
    }
    unsigned most() const { return options.jobs > 0 ? options.jobs : most_others() + 1; }
    bool is_torch(size_t i) const { return torch_node[i] != 0; }
    bool cancelled() const { return options.cancel != nullptr && options.cancel->requested(); }

    // ---- any thread

    void tell(Event event) {
        {
            const std::lock_guard lock(mutex);
            events.push_back(std::move(event));
        }
        told.notify_one();
    }
    template <class Body>
    void guarded(size_t i, Body&& body) {
        try {
            body();
        } catch (...) {
            tell({.kind = Event::Kind::kFailed,
                  .node = i,
                  .time = now(),
                  .error = current_error().within({.node = graph.nodes[i].id})});
        }
    }
    void look_up(size_t i) {
        if (stopping) return tell({.kind = Event::Kind::kNotLooked, .node = i});
        guarded(i, [&] {
            Event event{.kind = Event::Kind::kLooked, .node = i};
            if (const std::optional<Done>& done = work.done()[i]) {  // hooks.looked has taken it
                event.key = done->result.key;
                event.found = true;
            } else {
                event.key = *work.key_of(i, event.record);
                event.found = options.use_cache && work.take(i, event.key);
            }
            if (event.found) hooks.expose(i, *work.done()[i]);
            event.time = now();
            tell(std::move(event));
        });
    }
    void make(size_t i, Live& progress) {
        guarded(i, [&] {
            Job job = work.job_of(i, keys[i], std::move(records[i]));
            job.progress = &progress;
            job.log = [&](std::string_view line) {
                tell({.kind = Event::Kind::kLog, .node = i, .text = std::string(line), .time = now()});
            };
            job.note = [&](std::string_view line) {
                tell({.kind = Event::Kind::kNote, .node = i, .text = std::string(line), .time = now()});
            };
            work.set(i, work.executor().execute(job), false);
            hooks.expose(i, *work.done()[i]);
            tell({.kind = Event::Kind::kMade, .node = i, .time = now()});
        });
    }

    // ---- the deciding thread

    /// A data set is done, or won't be. When all are, the others have their turn.
    void looked_at(size_t i) {
        if (data_set[i] == 0) return;
        data_set[i] = 0;
        if (--to_look == 0) all_looked();
    }
    void all_looked() {
        if (stopping) return;
        all_are_looked_at = true;
        if (!hooks.looked()) {
            stopping = true;
            return;
        }
        const std::vector<size_t> waiting = std::move(held);
        held.clear();
        for (const size_t i : waiting) inputs_done(i);
    }
    void inputs_done(size_t i) {
        if (!all_are_looked_at && data_set[i] == 0)
            held.push_back(i);
        else if (graph.nodes[i].type->volatile_source) {
            ready.insert(i);
        } else {
            ++looking;
            looked_up[i] = 1;
            look.add([this, i] { look_up(i); });
        }
    }
    void start(size_t i) {
        ready.erase(i);
        outcomes[i].state = NodeState::kRunning;
        Live& progress = *(live[i] = std::make_unique<Live>());
        hooks.log(i, "started", graph.nodes[i].type->name, now());
        observer.node_started(i, graph.nodes[i]);
        const bool is_one = is_torch(i);
        torch_busy = torch_busy || is_one;
        (is_one ? torch : others).add([this, i, &progress] { make(i, progress); });
    }
    void start_ready() {
        if (stopping || live.size() >= most()) return;
        if (!torch_busy) {
            const auto first = std::find_if(ready.begin(), ready.end(), [this](size_t i) { return is_torch(i); });
            if (first != ready.end()) start(*first);
        }
        size_t beside = live.size() - (torch_busy ? 1 : 0);
        const std::vector<size_t> candidates(ready.begin(), ready.end());
        for (const size_t i : candidates) {
            if (live.size() >= most() || beside >= most_others()) return;
            if (is_torch(i)) continue;
            start(i);
            ++beside;
        }
    }
    void done(size_t i, bool cached, const std::string& time) {
        const Done& result = *work.done()[i];
        const Json& record = result.result.record;
        const std::string headline = record.value("headline", std::string());
        NodeOutcome& outcome = outcomes[i];
        outcome.state = NodeState::kDone;
        outcome.seconds = record.value("seconds", 0.0);
        if (!cached) {
            auto& [seconds, count] = taken_by_stem[graph.nodes[i].stem];
            seconds += outcome.seconds;
            ++count;
        }
        ++finished;
        hooks.log(i, cached ? "cached" : "finished", headline, time);
        observer.node_finished(i, graph.nodes[i], cached, outcome.seconds, headline);
        for (const SkippedFile& file : result.skipped) hooks.log(i, "skipped", file.file + ": " + file.reason, time);
        for (const size_t user : users[i])
            if (--waits[user] == 0 && outcomes[user].state == NodeState::kWaiting) inputs_done(user);
        if (const auto waiting = followers.find(i); waiting != followers.end()) {
            const std::vector<size_t> same = std::move(waiting->second);
            followers.erase(waiting);
            for (const size_t follower : same) follow(follower, i);
        }
        looked_at(i);
    }
    /// Node i has the key of another that is done.
    void follow(size_t i, size_t maker) {
        work.set(i, work.done()[maker]->result, true);
        guarded(i, [&] {
            hooks.expose(i, *work.done()[i]);
            done(i, true, now());
        });
    }
    void block(size_t i, size_t by) {
        for (const size_t user : users[i])
            if (outcomes[user].state == NodeState::kWaiting) {
                outcomes[user].state = NodeState::kBlocked;
                outcomes[user].blocked_by = by;
                looked_at(user);
                block(user, by);
            }
    }
    void failed(size_t i, const Error& error, const std::string& time) {
        const bool by_cancel = error.code() == Code::kCancelled && cancelled();
        outcomes[i].state = by_cancel ? NodeState::kCancelled : NodeState::kFailed;
        outcomes[i].error = error;
        hooks.log(i, by_cancel ? "cancelled" : "failed", error.what(), time);
        if (!by_cancel) observer.node_failed(i, graph.nodes[i], error);
        if (!options.keep_going || by_cancel) stopping = true;
        block(i, i);
        // Who comes to the same key now or later tries by itself.
        if (const auto maker = makers.find(keys[i]); maker != makers.end() && maker->second == i) makers.erase(maker);
        if (const auto waiting = followers.find(i); waiting != followers.end()) {
            const std::vector<size_t> same = std::move(waiting->second);
            followers.erase(waiting);
            for (const size_t follower : same) to_make(follower);
        }
        looked_at(i);
    }
    void to_make(size_t i) {
        const auto [maker, first] = makers.try_emplace(keys[i], i);
        if (first)
            ready.insert(i);
        else if (outcomes[maker->second].state == NodeState::kDone)
            follow(i, maker->second);
        else
            followers[maker->second].push_back(i);
    }
    void handle(Event& event) {
        const size_t i = event.node;
        switch (event.kind) {
            case Event::Kind::kLog: hooks.log(i, "log", event.text, event.time); break;
            case Event::Kind::kNote:
                hooks.log(i, "note", event.text, event.time);
                observer.note(graph.nodes[i], event.text);
                break;
            case Event::Kind::kNotLooked: --looking; break;
            case Event::Kind::kLooked:
                --looking;
                looked_up[i] = 0;
                keys[i] = std::move(event.key);
                records[i] = std::move(event.record);
                if (event.found)
                    done(i, true, event.time);
                else
                    to_make(i);
                break;
            case Event::Kind::kMade:
            case Event::Kind::kFailed:
                if (live.erase(i) != 0) {
                    if (is_torch(i)) torch_busy = false;
                } else if (looked_up[i] != 0) {
                    --looking;
                }
                if (event.kind == Event::Kind::kMade)
                    done(i, false, event.time);
                else
                    failed(i, *event.error, event.time);
                break;
        }
    }

    /// How long a node is likely to take; negative where nothing tells.
    double expected(size_t i) const {
        if (const auto before = hooks.earlier.find(graph.nodes[i].id); before != hooks.earlier.end())
            return before->second;
        const auto alike = taken_by_stem.find(graph.nodes[i].stem);
        return alike == taken_by_stem.end() ? -1 : alike->second.first / static_cast<double>(alike->second.second);
    }
    double seconds_left() const {
        double all = 0, one_at_a_time = 0;
        for (size_t i = 0; i < graph.nodes.size(); ++i) {
            if (outcomes[i].state != NodeState::kWaiting && outcomes[i].state != NodeState::kRunning) continue;
            double seconds = expected(i);
            if (seconds < 0) return -1;
            if (const auto running = live.find(i); running != live.end())
                seconds = std::max(0.0, seconds - since(running->second->begin));
            all += seconds;
            if (is_torch(i)) one_at_a_time += seconds;
        }
        return std::max(one_at_a_time, all / most());
    }
    void tell_status() {
        if (since(last_status) < 0.2) return;
        last_status = Clock::now();
        RunStatus status{.nodes = selected, .finished = finished, .running = live.size()};
        status.ending = stopping;
        if (!stopping) status.seconds_left = seconds_left();
        const Live* longest = nullptr;
        for (const auto& [i, progress] : live)
            if (longest == nullptr || progress->begin < longest->begin) {
                longest = progress.get();
                status.node = &graph.nodes[i];
            }
        if (longest != nullptr) {
            status.node_seconds = since(longest->begin);
            const std::lock_guard lock(longest->mutex);
            status.done = longest->done, status.total = longest->total, status.unit = longest->unit;
            status.unit_seconds = since(longest->unit_begin);
        }
        observer.status(status);
    }

    void run() {
        for (size_t i = 0; i < graph.nodes.size(); ++i)
            if (outcomes[i].state == NodeState::kWaiting && waits[i] == 0) inputs_done(i);
        if (to_look == 0) all_looked();
        std::optional<Clock::time_point> asked;
        for (;;) {
            if (cancelled() && !asked) {
                asked = Clock::now();
                stopping = true;
            }
            start_ready();
            std::vector<Event> now_told;
            {
                std::unique_lock lock(mutex);
                if (live.empty() && looking == 0 && (stopping || ready.empty()) && events.empty()) return;
                told.wait_for(lock, std::chrono::milliseconds(asked ? 20 : 100), [this] { return !events.empty(); });
                now_told.swap(events);
            }
            for (Event& event : now_told) handle(event);
            if (asked && since(*asked) > kCancelSeconds && (!live.empty() || looking > 0) && options.abandon) {
                left = true;
                for (const auto& [i, progress] : live) outcomes[i].state = NodeState::kCancelled;
                return;
            }
            tell_status();
        }
    }
};

Schedule::Schedule(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer,
                   Work& work, std::vector<NodeOutcome>& outcomes, Hooks hooks)
    : state_(std::make_unique<State>(graph, registry, options, observer, work, outcomes, std::move(hooks))) {}

Schedule::~Schedule() {
    state_->stopping = true;
}

void Schedule::run() {
    state_->run();
}

bool Schedule::abandoned() const {
    return state_->left;
}

}  // namespace biophony
