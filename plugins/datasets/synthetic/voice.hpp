// Invented species and their calls: what stays the same in all recordings of a species.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "random.hpp"

namespace scenes {

/// One kind of syllable; frequencies are octaves off the species' carrier.
struct Syllable {
    double octaves = 0;      ///< how far it lies from the carrier
    double sweep = 0;        ///< octaves from beginning to end
    double bend = 0;         ///< octaves of arch in the middle
    double seconds = 0;      ///< length
    double attack = 0.2;     ///< share of the length in which it rises
    double decay = 0;        ///< 0: falls as it rose; above: exponentially, by this many e-foldings
    double vibrato_hz = 0;   ///< rate
    double vibrato = 0;      ///< depth in octaves
    double tremolo_hz = 0;   ///< rate at which the level is modulated
    double tremolo = 0;      ///< depth, 0 … 1
    double noise = 0;        ///< share of band noise instead of tone, 0 … 1
    double bandwidth = 0.5;  ///< of that noise, octaves
    double level = 1;
};

/// A voice: syllables, their order and their timing.
struct Voice {
    double carrier = 1000;            ///< Hz
    double rate = 10;                 ///< syllables or pulses per second
    double hurry = 0;                 ///< octaves by which the rate rises in the course of a call
    double swell = 0;                 ///< −1 fades, 0 swells and fades, +1 grows, in the course of a call
    std::vector<double> partials{1};  ///< level of the carrier, of twice the carrier, …
    std::vector<Syllable> syllables;  ///< sung in turn
    double call_seconds = 0.5;        ///< a call is one run of syllables
    double gap_seconds = 0.6;         ///< between calls
};

/// A species has one voice or two (a tone and clicks; a low and a high note).
struct Species {
    Voice voice;
    std::vector<Voice> second;  ///< empty, or one that sounds with the first
};

/// How one individual differs from its species.
struct Individual {
    double pitch = 1, rate = 1;  ///< factors
    double talk = 1, rest = 1;   ///< of the calls' and the gaps' lengths
    double timbre = 1;           ///< of the partials above the first
};
Individual draw_individual(Random& random);

enum class Guild { kFrog, kCricket, kBird, kWhale, kAny };

/// A species of a guild. For the four named guilds, `column` of `columns` and `row` of `rows` are its place in the
/// guild's grid of carriers and rates, so that neighbours differ in one or the other; kAny draws from everything that
/// this file can sing.
Species invent(Guild guild, int column, int columns, int row, int rows, Random& random);

/// Adds the calls of one clip to `out` (samples at kRate), dry; at least one of them begins in the clip.
void sing(std::vector<float>& out, const Species& species, const Individual& individual, Random& random);

}  // namespace scenes
