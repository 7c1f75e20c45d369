// Places without an animal: what the group "background" is made of.
#pragma once

#include <cstddef>
#include <vector>

#include "place.hpp"

namespace scenes {

/// The sources of one place. Each has a level against the bed of noise, which is always there; 0 = it is absent.
struct Ambience {
    struct Tone {
        double hz = 0, level = 0, phase = 0;
    };

    double slope = 0;                                                  ///< of the bed: 0 white … 1 brown
    std::vector<Biquad> colour;                                        ///< of the bed: room, vegetation
    double rain = 0, rain_rate = 0, rain_low = 0, rain_high = 0;       ///< drops a second, their pitches in Hz
    double wind = 0, wind_hz = 0, wind_cutoff = 0, whistle = 0;        ///< gusts a second, upper edge, whistling
    double leaves = 0, leaves_rate = 0, leaves_hz = 0;                 ///< bursts of rustling
    double water = 0, water_rate = 0, water_hz = 0;                    ///< bubbles a second, their pitch
    double machine = 0, machine_am = 0, machine_am_hz = 0;             ///< a hum with harmonics
    std::vector<Tone> partials;                                        ///< of the machine
    double traffic = 0, traffic_cutoff = 0, traffic_rate = 0;          ///< rumble that comes and goes
    double crackle = 0, crackle_rate = 0, crackle_hz = 0;              ///< fire, a loose plug, hail on metal
    double whine = 0, whine_hz = 0, whine_am_hz = 0, whine_drift = 0;  ///< electronics
    double knocks = 0, knocks_rate = 0, knocks_hz = 0;                 ///< handling, a branch, a door
    double level = 0;                                                  ///< root mean square of all, at the recorder
};

/// One to three of the sources, one of them in front. `varied` 0 … 1: how far levels differ between places.
Ambience draw_ambience(double varied, Random& random);

/// Sound before the recorder, of any level; nowhere silent.
std::vector<float> ambience(size_t frames, const Ambience& place, Random& random);

}  // namespace scenes
